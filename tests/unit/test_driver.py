"""What the driver of a Ray job makes of what has ended its workers."""

import pytest
import ray
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from catdog.errors import CallerError, FinalError, HeldError, RunError
from job.driver import _brought, cause

LOST = RunError("worker 0 of 2: another one has ended")


def of(failures: dict[int, Exception]) -> Exception:
    return cause(WorkerGroupError("Traceback ...", failures))


def test_a_mistake_in_the_recipe_is_told_before_what_it_did_to_the_others() -> None:
    for mistake in (CallerError("no such file"), FinalError("not finite"), HeldError("is being trained")):
        assert of({0: LOST, 1: mistake}) is mistake


def test_a_death_is_told_before_what_it_did_to_the_others() -> None:
    deaths = (ray.exceptions.ActorDiedError(), WorkerHealthCheckFailedError("a check failed", OSError()))
    for death in deaths:
        error = of({0: LOST, 1: death})
        assert type(error) is RunError and str(error) == "worker 1 has died, or its host"
    assert of({0: LOST}) is LOST


def test_a_fault_of_the_program_is_shown_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = of({0: LOST, 1: ZeroDivisionError("division by zero")})
    assert type(error) is RunError and str(error) == "worker 1: ZeroDivisionError: division by zero"
    assert "Traceback ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    "config", [b"{", b"[]", b'{"runtime_env": 3}', b'{"runtime_env": {"env_vars": []}}', b"[" * 9999]
)
def test_what_ray_never_tells_a_job_is_one_line(config: bytes) -> None:
    with pytest.raises(RunError, match="RAY_JOB_CONFIG_JSON_ENV_VAR: is not what Ray tells a job") as caught:
        _brought(config)
    assert "\n" not in str(caught.value)


def test_a_job_brings_its_own_variables_or_none() -> None:
    assert _brought(b'{"runtime_env": {"env_vars": {"A": "1"}}}') == {"A": "1"}
    assert _brought(b"{}") == {}
