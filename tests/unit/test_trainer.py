"""When the trainer saves."""

import time

import pytest

from catdog.recipe import Checkpoint, Recipe
from catdog.training.trainer import _due


@pytest.mark.parametrize(
    ("every_steps", "every_seconds", "step", "seconds", "due"),
    [
        (0, 0.0, 10, 1e6, False),
        (5, 0.0, 10, 0.0, True),
        (5, 0.0, 11, 1e6, False),
        (0, 60.0, 11, 59.0, False),
        (0, 60.0, 11, 60.0, True),
        (5, 60.0, 10, 0.0, True),
        (5, 60.0, 11, 61.0, True),
        (5, 60.0, 11, 59.0, False),
    ],
)
def test_a_checkpoint_is_due_by_the_steps_done_or_the_time_since_the_last(
    every_steps: int, every_seconds: float, step: int, seconds: float, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + seconds)
    recipe = Recipe(checkpoint=Checkpoint(every_steps=every_steps, every_seconds=every_seconds))
    assert _due(recipe, step, saved_at=1000.0) == due
