"""Shards are fetched ahead in the order they are needed; who waits comes first, and is told what came in the way."""

import errno
import itertools
import os
import threading
import traceback
from types import SimpleNamespace

import pytest
from shard_stores import (
    LONG,
    SIZE,
    Background,
    FakeBucket,
    assert_read,
    cached,
    entry,
    eventually,
    fetchers_wait,
    make_shards,
    names,
    one_after_another,
    read_at_random,
    read_through,
    stays,
    there,
    together,
)

from catdog.data.cache import prefetch
from catdog.data.cache.disk import DiskCache
from catdog.data.order import Need
from catdog.errors import CallerError, RunError
from tests.pace import within


def test_a_pass_starts_when_its_first_shard_is_there_not_when_all_are(tmp_path):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = {shard: threading.Event() for shard in range(1, 6)}
    with cached(bucket, tmp_path) as cache, cache.follow(shards, one_after_another(*range(6))) as files:
        for step in range(6):
            files.reach(step)
            assert_read(files, shards, step)
            if step < 5:
                assert eventually(lambda now=step: now + 1 in bucket.begun)
                bucket.gates[step + 1].set()


def test_shards_are_fetched_in_the_order_of_the_needs_and_no_further_ahead_than_asked(tmp_path):
    shards, order = make_shards(12), [5, 3, 8, 1, 11, 0, 2, 10]
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, ahead=3, fetchers=1) as cache,
        cache.follow(shards, one_after_another(*order)) as files,
    ):
        assert eventually(lambda: bucket.begun == order[:3])
        for step in range(len(order)):
            files.reach(step)
            assert eventually(lambda now=step: bucket.begun == order[: now + 4])
            assert stays(lambda now=step: bucket.begun == order[: now + 4])


@pytest.mark.parametrize("fetchers", [1, 3])
def test_as_many_fetches_run_at_a_time_as_there_are_fetchers(tmp_path, fetchers):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys(range(6), gate := threading.Event())
    with (
        cached(bucket, tmp_path, ahead=6, fetchers=fetchers) as cache,
        cache.follow(shards, one_after_another(*range(6))),
    ):
        assert eventually(lambda: len(bucket.underway) == fetchers)
        assert stays(lambda: len(bucket.underway) == fetchers)
        gate.set()


def test_who_waits_goes_before_what_is_fetched_ahead(tmp_path):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = {0: threading.Event()}
    with (
        cached(bucket, tmp_path, fetchers=1) as cache,
        cache.follow(shards, one_after_another(*range(5))),
        cache.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: bucket.begun == [0])
        waiter = Background(lambda: assert_read(at_random, shards, 5))
        assert eventually(waiter.is_waiting)
        bucket.gates[0].set()
        waiter.finish()
        assert bucket.begun[:2] == [0, 5]


@pytest.mark.parametrize("spoil", ["replaced", "cut", "removed"])
def test_an_entry_that_is_no_more_the_one_that_was_checked_is_fetched_anew(tmp_path, spoil):
    shards = make_shards(2)
    bucket, path = FakeBucket(shards), entry(tmp_path, shards[0])
    with cached(bucket, tmp_path) as cache, cache.follow(shards, one_after_another(0, 0, 1)) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        if spoil == "replaced":
            (tmp_path / "other").write_bytes(bytes(SIZE))
            os.replace(tmp_path / "other", path)
        elif spoil == "cut":
            os.truncate(path, SIZE - 1)
        else:
            path.unlink()
        assert_read(files, shards, 0)
        files.reach(1)
        assert_read(files, shards, 0)
    assert bucket.begun.count(0) == 2


def test_an_entry_that_another_process_has_fetched_again_is_read_as_it_is(tmp_path):
    shards = make_shards(1)
    bucket, path = FakeBucket(shards), entry(tmp_path, shards[0])
    with cached(bucket, tmp_path) as cache, cache.follow(shards, one_after_another(0)) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        (tmp_path / "other").write_bytes(path.read_bytes())
        os.replace(tmp_path / "other", path)
        assert_read(files, shards, 0)
    assert bucket.begun == [0]


def test_a_shard_that_two_passes_want_is_fetched_once(tmp_path):
    shards = make_shards(4)
    bucket = FakeBucket(shards, delay=0.02)
    with cached(bucket, tmp_path) as cache:

        def read_all() -> None:
            with cache.follow(shards, one_after_another(*range(4))) as files:
                for step in range(4):
                    files.reach(step)
                    assert_read(files, shards, step)

        together(read_all, read_all, read_all)
    assert sorted(bucket.begun) == [0, 1, 2, 3]


def test_an_entry_deleted_by_hand_is_fetched_again(tmp_path):
    shards = make_shards(1)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path) as cache, cache.follow(shards, iter([Need(0, 0, 9)])) as files:
        for step in range(3):
            files.reach(step)
            assert_read(files, shards, 0)
            entry(tmp_path, shards[0]).unlink()
    assert bucket.begun == [0, 0, 0]


def test_a_failed_fetch_surfaces_with_its_own_traceback_and_may_be_tried_again(tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("broken off"), OSError(errno.EIO, os.strerror(errno.EIO))]}
    with cached(bucket, tmp_path, ahead=0) as cache, cache.follow(shards, one_after_another(0, 1, 2)) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        files.reach(1)
        with pytest.raises(RunError, match="broken off") as raised:
            files.open(shards[1])
        assert "_broken_off" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            files.open(shards[1])
        assert stays(lambda: bucket.begun.count(1) == 2)
        assert not any(shards[1].name in name for name in names(tmp_path))
        assert_read(files, shards, 1)
        files.reach(2)
        assert_read(files, shards, 2)


def test_a_shard_whose_prefetch_failed_is_fetched_again_when_it_is_needed(tmp_path):
    shards = make_shards(2)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("the store was away")]}
    with cached(bucket, tmp_path, ahead=1) as cache, cache.follow(shards, one_after_another(0, 1)) as files:
        files.reach(0)
        assert eventually(lambda: bucket.begun.count(1) == 1 and not bucket.underway)
        files.reach(1)
        assert_read(files, shards, 1)


def test_a_failure_that_nobody_met_is_forgotten_with_its_pass(tmp_path):
    shards = make_shards(2)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("broken off")]}
    with cached(bucket, tmp_path, ahead=0) as cache:
        with cache.follow(shards, iter([Need(0, 0, 0), Need(1, 0, 0)])) as files:
            files.reach(0)
            assert eventually(lambda: sorted(bucket.begun) == [0, 1] and not bucket.underway and fetchers_wait())
        read_through(cache, shards)


def test_a_failure_that_comes_when_its_pass_has_gone_is_not_told_to_another(tmp_path):
    shards = make_shards(1)
    bucket = FakeBucket(shards)
    bucket.gates, bucket.failures = {0: (gate := threading.Event())}, {0: [RunError("broken off")]}
    with cached(bucket, tmp_path, ahead=0) as cache, cache.follow(shards, iter(())) as others:
        with cache.follow(shards, iter([Need(0, 0, 0)])) as files:
            files.reach(0)
            assert eventually(lambda: bucket.underway == [0])
        gate.set()
        assert eventually(lambda: not bucket.underway and fetchers_wait())
        assert_read(others, shards, 0)
    assert bucket.begun == [0, 0]


def test_a_failure_is_forgotten_once_the_shard_came_from_elsewhere(tmp_path):
    shards = make_shards(3)
    bucket, elsewhere = FakeBucket(shards), FakeBucket(shards)
    needs = iter([Need(0, 0, 9), Need(1, 1, 1), Need(2, 2, 2)])
    with (
        cached(bucket, tmp_path, ahead=0) as cache,
        cached(elsewhere, tmp_path) as other,
        cache.follow(shards, needs) as files,
    ):
        files.reach(0)
        assert_read(files, shards, 0)
        entry(tmp_path, shards[0]).unlink()
        bucket.failures = {0: [RunError("broken off")]}
        files.reach(1)
        assert eventually(lambda: sorted(bucket.begun) == [0, 0, 1] and not bucket.underway and fetchers_wait())
        in_the_way = entry(tmp_path, shards[0]).with_suffix(".inode")
        in_the_way.touch()  # or the file of the other might get the number of the deleted one
        with other.follow(shards, iter(())) as at_random:
            assert_read(at_random, shards, 0)
        files.reach(2)
        assert_read(files, shards, 0)
        entry(tmp_path, shards[0]).unlink()
        assert_read(files, shards, 0)
    assert bucket.begun.count(0) == 3


def test_a_failure_is_told_to_each_who_waits_and_the_next_to_ask_has_it_tried_again(tmp_path):
    shards = make_shards(1)
    bucket = FakeBucket(shards)
    bucket.gates, bucket.failures = {0: (gate := threading.Event())}, {0: [RunError("broken off")]}
    with cached(bucket, tmp_path) as cache, cache.follow(shards, iter(())) as files:
        waiters = [Background(lambda: assert_read(files, shards, 0)) for _ in range(3)]
        assert eventually(lambda: bucket.underway == [0] and all(waiter.is_waiting() for waiter in waiters))
        gate.set()
        for waiter in waiters:
            with pytest.raises(RunError, match="broken off"):
                waiter.finish()
        assert_read(files, shards, 0)
    assert bucket.begun == [0, 0]


def test_what_no_pass_needs_any_more_is_let_go_of(tmp_path):
    shards = make_shards(8)
    bucket = FakeBucket(shards, delay=0.001)
    looking = DiskCache(tmp_path, 10**9)
    with cached(bucket, tmp_path, ahead=3) as cache:
        with cache.follow(shards, iter([Need(0, 0, 1), Need(1, 0, 0), Need(2, 1, 2)])) as files:
            for step, needed in enumerate([(0, 1), (0, 2), (2,), ()]):
                files.reach(step)
                assert_read(files, shards, *needed)
                expected = {str(entry(tmp_path, shards[number])): SIZE for number in needed}
                assert eventually(lambda held=expected: looking.in_use() == held)
        together(*(lambda seed=seed: read_at_random(cache, shards, 50, seed) for seed in range(3)))
        assert eventually(lambda: looking.in_use() == {})


def test_a_prefetch_that_found_no_space_is_tried_again_though_nothing_happens_here(tmp_path, monkeypatch):
    ticks = itertools.count()
    shards = make_shards(2)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path, SIZE) as other, other.follow(shards, iter([Need(0, 0, 0), Need(1, 1, 1)])) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        # A clock that goes on at each look: a rest may end between two of them.
        clock = SimpleNamespace(monotonic=lambda: 0.8 * prefetch._REST * next(ticks))
        with monkeypatch.context() as patch, cached(bucket, tmp_path, SIZE, ahead=1, fetchers=1) as cache:
            patch.setattr(prefetch, "time", clock)
            with cache.follow(shards, one_after_another(1)):
                assert stays(lambda: bucket.begun == [0], seconds=0.5)
                files.reach(2)
                assert eventually(lambda: there(tmp_path, shards) == [1])


def test_who_looks_for_space_for_a_pass_that_has_gone_turns_to_others(tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, 2 * SIZE) as other,
        cached(bucket, tmp_path, 2 * SIZE, fetchers=1, patience=10 * LONG) as cache,
        other.follow(shards, iter([Need(0, 0, 0), Need(1, 0, 0)])) as files,
    ):
        files.reach(0)
        assert_read(files, shards, 0, 1)
        with cache.follow(shards, iter([Need(2, 0, 0)])) as left:
            left.reach(0)
            assert stays(lambda: sorted(bucket.begun) == [0, 1])
        with cache.follow(shards, iter(())) as at_random:
            Background(lambda: assert_read(at_random, shards, 0)).finish()


def test_a_pass_left_in_the_middle_leaves_its_space_and_its_fetchers_to_others(tmp_path):
    train, val = make_shards(6), make_shards(3, split="val")
    bucket = FakeBucket(train, val)
    bucket.gates = {5: (gate := threading.Event())}
    with cached(bucket, tmp_path, 3 * SIZE, ahead=4, fetchers=1) as cache:
        with cache.follow(train, one_after_another(5, 4, 3, 2, 1, 0)) as files:
            files.reach(0)
            assert eventually(lambda: bucket.begun == [5])
        gate.set()
        read_through(cache, val)
    assert bucket.begun == [5, 0, 1, 2]


def test_a_limit_below_a_shard_is_told_at_once_with_the_number_that_would_do(tmp_path):
    shards = make_shards(3, sizes=[100, 300, 200])
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path, 299) as cache, cache.follow(shards, iter(())) as files:
        assert_read(files, shards, 0, 2)
        with pytest.raises(CallerError, match=r"^cache\.max_bytes = 299: .* at least 300$"):
            files.open(shards[1])


def test_a_store_that_is_waited_for_longer_is_waited_for_in_other_processes_too(tmp_path):
    shards = make_shards(1)
    away, bucket = FakeBucket(shards), FakeBucket(shards)
    away.gates, bucket.patience = {0: (back := threading.Event())}, 60.0
    with (
        cached(away, tmp_path) as one,
        cached(bucket, tmp_path, patience=0.1) as two,
        one.follow(shards, one_after_another(0)),
    ):
        assert eventually(lambda: away.begun == [0])
        threading.Timer(0.5, back.set).start()
        with two.follow(shards, iter(())) as files:
            assert_read(files, shards, 0)
    assert bucket.begun == []


def test_space_that_others_hold_is_waited_for_not_for_ever(tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, 2 * SIZE) as one,
        cached(bucket, tmp_path, 2 * SIZE, patience=within(0.3)) as two,
        one.follow(shards, iter([Need(0, 0, 0), Need(1, 0, 0)])) as files,
        two.follow(shards, one_after_another(2)) as starved,
    ):
        files.reach(0)
        assert_read(files, shards, 0, 1)
        starved.reach(0)
        with pytest.raises(
            RunError, match=rf"{shards[2].name}: waited .* 2000 bytes \(.*{shards[0].name}.*max_bytes = 2000$"
        ):
            starved.open(shards[2])
        files.reach(1)
        assert_read(starved, shards, 2)


def test_what_a_pass_has_reached_is_held_even_while_all_fetchers_are_busy(tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.gates = {1: (gate := threading.Event())}
    with (
        cached(bucket, tmp_path, 2 * SIZE, fetchers=1) as one,
        cached(bucket, tmp_path, 2 * SIZE, patience=within(0.3)) as impatient,
        cached(bucket, tmp_path, 2 * SIZE) as patient,
        one.follow(shards, one_after_another(0, 1)) as files,
        impatient.follow(shards, iter(())) as starved,
        patient.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: bucket.begun == [0, 1])
        files.reach(0)
        with pytest.raises(RunError, match=shards[2].name):
            starved.open(shards[2])
        gate.set()
        assert_read(at_random, shards, 2)
        assert there(tmp_path, shards) == [0, 2]


def test_space_that_fetches_of_this_process_hold_is_waited_for_until_they_end(tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys((0, 1), gate := threading.Event())
    with (
        cached(bucket, tmp_path, 2 * SIZE, patience=0.1) as cache,
        cache.follow(shards, one_after_another(0, 1)),
        cache.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: len(bucket.underway) == 2)
        threading.Timer(0.5, gate.set).start()
        assert_read(at_random, shards, 2)


def test_a_fetch_of_others_that_does_not_move_is_waited_for_not_for_ever(tmp_path):
    shards = make_shards(1)
    stuck, bucket = FakeBucket(shards), FakeBucket(shards)
    stuck.gates = {0: threading.Event()}
    with (
        cached(stuck, tmp_path) as one,
        cached(bucket, tmp_path, patience=within(0.3)) as impatient,
        cached(bucket, tmp_path) as patient,
        one.follow(shards, one_after_another(0)),
        impatient.follow(shards, iter(())) as starved,
        patient.follow(shards, iter(())) as files,
    ):
        assert eventually(lambda: stuck.begun == [0])
        with pytest.raises(RunError, match=shards[0].name):
            starved.open(shards[0])
        stuck.gates[0].set()
        assert_read(files, shards, 0)
    assert bucket.begun == []
