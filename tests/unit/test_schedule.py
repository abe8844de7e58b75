import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import CallerError
from catdog.recipe import Phase
from catdog.training.schedule import Span, span_after, spans


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 50))
def test_phases_follow_each_other_without_gap_or_overlap(epochs: list[int], steps_per_epoch: int) -> None:
    plan = spans(tuple(Phase(f"p{i}", epochs=e) for i, e in enumerate(epochs)), steps_per_epoch)
    assert plan[0].start == 0
    assert all(before.stop == after.start for before, after in itertools.pairwise(plan))
    assert plan[-1].stop == sum(epochs) * steps_per_epoch


def test_the_step_after_a_phases_last_one_belongs_to_the_next_phase() -> None:
    plan = spans((Phase("a", epochs=1), Phase("b", epochs=2)), steps_per_epoch=5)
    assert [span_after(plan, done).phase.name for done in (0, 4, 5, 14)] == ["a", "a", "b", "b"]


def test_rate_rises_in_equal_steps_then_falls_as_half_a_cosine() -> None:
    span = Span(Phase("p", learning_rate=1.0, warmup=0.2), start=100, stop=120)
    rates = [span.learning_rate(step) for step in range(100, 120)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5)
    assert all(before > after > 0 for before, after in itertools.pairwise(rates[4:]))


@given(st.integers(1, 400), st.floats(0, 0.99), st.floats(1e-8, 10))
def test_rate_is_positive_and_never_above_the_peak(steps: int, warmup: float, peak: float) -> None:
    span = Span(Phase("p", learning_rate=peak, warmup=warmup), start=7, stop=7 + steps)
    rates = [span.learning_rate(7 + step) for step in range(steps)]
    assert all(0 < rate <= peak for rate in rates)


def test_more_steps_than_the_devices_count_are_refused() -> None:
    with pytest.raises(CallerError, match="phases: their epochs are 2147483648 steps: must be fewer than 2147483648"):
        spans((Phase("a", epochs=2**19),), 2**12)
