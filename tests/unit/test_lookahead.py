"""What a pass needs at its step, and next."""

import itertools

from catdog.data.cache.lookahead import Lookahead
from catdog.data.order import Need

NEEDS = [Need(4, 0, 1), Need(2, 0, 0), Need(4, 1, 5), Need(0, 3, 3), Need(1, 3, 4), Need(3, 6, 6)]


def test_a_need_is_current_from_its_first_step_to_its_last_and_before_that_among_the_next():
    lookahead = Lookahead(iter(NEEDS), ahead=2)
    assert (lookahead.now, lookahead.later) == ([], [4, 2])
    seen = {}
    for step in range(8):
        lookahead.reach(step)
        seen[step] = lookahead.now, lookahead.later
    assert seen == {
        0: ([4, 2], [4, 0]),
        1: ([4, 4], [0, 1]),
        2: ([4], [0, 1]),
        3: ([4, 0, 1], [3]),
        4: ([4, 1], [3]),
        5: ([4], [3]),
        6: ([3], []),
        7: ([], []),
    }


def test_a_step_that_begins_and_ends_no_need_changes_nothing():
    lookahead = Lookahead(iter([Need(0, 0, 2), Need(1, 4, 4)]), ahead=4)
    assert [lookahead.reach(step) for step in (0, 0, 1, 2, 3, 4, 5, 6)] == [
        True, False, False, False, True, True, True, False,
    ]  # fmt: skip


def test_steps_that_are_passed_over_leave_only_what_is_still_needed():
    lookahead = Lookahead(iter(NEEDS), ahead=1)
    assert lookahead.reach(4)
    assert (lookahead.now, lookahead.later) == ([4, 1], [3])


def test_without_prefetches_no_shard_is_wanted_later_and_each_need_still_begins():
    lookahead = Lookahead(iter(NEEDS), ahead=0)
    for step, now in enumerate([[4, 2], [4, 4], [4], [4, 0, 1]]):
        lookahead.reach(step)
        assert (lookahead.now, lookahead.later) == (now, [])


def test_the_needs_are_taken_in_no_faster_than_they_are_reached():
    taken = []
    endless = (taken.append(step) or Need(step % 3, step, step) for step in itertools.count())
    lookahead = Lookahead(endless, ahead=2)
    for step in range(50):
        assert len(taken) == step + 2
        lookahead.reach(step)
