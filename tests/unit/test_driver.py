"""What the driver of a Ray job makes of what has ended its workers."""

import pytest
import ray
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from catdog.errors import CallerError, FinalError, HeldError, RunError
from job.driver import cause

LOST = RunError("worker 0 of 2: another one has ended")


def of(failures: dict[int, Exception]) -> Exception:
    return cause(WorkerGroupError("Traceback ...", failures))


def test_a_mistake_in_the_recipe_is_told_before_what_it_did_to_the_others() -> None:
    for mistake in (CallerError("no such file"), FinalError("not finite"), HeldError("is being trained")):
        assert of({0: LOST, 1: mistake}) is mistake


def test_a_death_is_told_before_what_it_did_to_the_others() -> None:
    deaths = (
        (ray.exceptions.ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (
            ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."),
            "Task was killed due",
        ),
        (WorkerHealthCheckFailedError("a check failed", OSError("no answer")), "no answer"),
    )
    for death, words in deaths:
        error = of({0: LOST, 1: death})
        assert type(error) is RunError and str(error).startswith(f"worker 1 has died, or its host: {words}")
    assert of({0: LOST}) is LOST


def test_a_fault_of_the_program_is_shown_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = of({0: LOST, 1: ZeroDivisionError("division by zero")})
    assert type(error) is RunError and str(error) == "worker 1: ZeroDivisionError: division by zero"
    assert "Traceback ..." in capsys.readouterr().err
