"""What the steps between two lines of metrics are summed up to."""

import pytest
import tensorflow as tf

from catdog.errors import RunError
from catdog.training.running_metrics import RunningMetrics
from catdog.training.step import Outcome


def outcome(loss: float, correct: float, *, finite: bool = True) -> Outcome:
    return {"loss": tf.constant(loss), "correct": tf.constant(correct), "finite": tf.constant(finite)}


def closed(window: RunningMetrics) -> dict[str, float]:
    window.take_all()
    return window.close()


def test_a_line_holds_the_means_over_the_steps_since_the_line_before() -> None:
    window = RunningMetrics(global_batch=8, sums={})
    for steps in ([(8.0, 2.0), (4.0, 4.0)], [(2.0, 8.0)]):
        for step, (loss, correct) in enumerate(steps, 1):
            window.add(step, outcome(loss, correct))
        line = closed(window)
        examples = 8 * len(steps)
        assert line["loss"] == pytest.approx(sum(loss for loss, _ in steps) / examples)
        assert line["accuracy"] == pytest.approx(sum(correct for _, correct in steps) / examples)
    assert window.empty


def test_a_line_that_only_a_phases_first_step_stands_behind_tells_no_speed() -> None:
    window = RunningMetrics(global_batch=8, sums={})
    window.add(1, outcome(8.0, 4.0))  # it compiles the step
    assert closed(window).keys() == {"loss", "accuracy"}
    window.add(2, outcome(8.0, 4.0))
    line = closed(window)
    assert line["images_per_s"] > 0 and 0 <= line["data_wait"] <= 1
    window.start_phase()
    window.add(3, outcome(8.0, 4.0))
    assert closed(window).keys() == {"loss", "accuracy"}


def test_a_window_goes_on_from_what_a_checkpoint_kept() -> None:
    whole, first = RunningMetrics(8, {}), RunningMetrics(8, {})
    for window in (whole, first):
        window.add(1, outcome(8.0, 4.0))
    first.take_all()
    rest = RunningMetrics(8, first.sums())
    for window in (whole, rest):
        window.add(2, outcome(2.0, 6.0))
    one, other = closed(whole), closed(rest)
    assert (one["loss"], one["accuracy"]) == (other["loss"], other["accuracy"]) == (10 / 16, 10 / 16)


def test_the_first_step_that_is_not_finite_is_named() -> None:
    window = RunningMetrics(8, {})
    for step in range(1, 5):
        window.add(step, outcome(1.0, 1.0, finite=step % 2 == 1))
    with pytest.raises(RunError, match="not finite at step 2:"):
        window.take_all()
