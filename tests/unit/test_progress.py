"""When a run is validated and saved."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from catdog.recipe import Checkpoint, Phase, Recipe
from catdog.runs.folder import Position
from catdog.storage import open_bucket
from catdog.training.progress import Progress
from catdog.training.schedule import spans

PER_EPOCH = 20
Make = Callable[..., Progress]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """The progress of a worker that writes nothing, with the checkpoints of a recipe and at a step."""

    def of(checkpoint: Checkpoint, step: int = 0, validated: int = 0) -> Progress:
        recipe = Recipe(checkpoint=checkpoint, phases=(Phase("only", epochs=3),))
        start = SimpleNamespace(
            recipe=recipe,
            order=SimpleNamespace(steps_per_epoch=PER_EPOCH),
            plan=spans(recipe.phases, PER_EPOCH),
            run=open_bucket(str(tmp_path)),
            newest=None,
            lease=None,
            strategy=SimpleNamespace(num_replicas_in_sync=1),
            group=SimpleNamespace(chief=False),
        )
        position = Position(step, validated, None, None, {}, "manifest")
        return closed.enter_context(closing(Progress(start, None, position, lambda *_: None, 0.0)))

    with ExitStack() as closed:
        yield of


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
def test_a_save_is_due_by_the_steps_done_or_the_time_since_the_last(
    every_steps: int,
    every_seconds: float,
    step: int,
    seconds: float,
    due: bool,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    progress = make(Checkpoint(every_steps=every_steps, every_seconds=every_seconds))
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + seconds)
    assert progress.save_due(step) == due


def test_no_save_is_due_where_nothing_was_done_since_the_last(make: Make) -> None:
    progress = make(Checkpoint(every_steps=5), step=10)
    assert not progress.save_due(10) and progress.save_due(15)


def test_a_validation_is_due_once_at_the_end_of_each_epoch(make: Make) -> None:
    progress = make(Checkpoint(), step=20, validated=20)
    assert [step for step in range(61) if progress.validation_due(step)] == [40, 60]
    progress = make(Checkpoint(), step=20)
    assert [step for step in range(61) if progress.validation_due(step)] == [20, 40, 60]
