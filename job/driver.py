"""A recipe on the workers of a Ray cluster, started again after what clusters do to runs."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, cast

import ray
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.tensorflow.tensorflow_trainer import TensorflowTrainer

from catdog import recipe as recipes
from catdog.errors import CallerError, FinalError, HeldError, RunError, one_line
from catdog.recipe import Recipe
from catdog.training.signals import Stopped, StopRequest, listening
from job.backend import Workers, free_port
from job.link import Link
from job.storage import forget, ray_storage
from job.worker import Outcome, work

PROGRAM = "job.train"
_NOTICE = 30.0
"""Seconds of waiting for room on the cluster after which it is told."""


def train(recipe: Recipe) -> dict[str, Any]:
    """Run the recipe, with absolute places, on the workers of a Ray cluster; what evaluation/test/metrics.json then holds.

    The workers are started again from the newest commit when they have ended for a reason that is not the recipe's: at
    most `cluster.max_failures` times, those not counted that were asked to leave and committed first. Raises
    CallerError, RunError, and Stopped after a SIGTERM or Ctrl-C to this process, once the state is committed.
    """
    failures, left_at = 0, -1
    with _cluster(recipe), listening() as stop:
        link: Any = ray.remote(num_cpus=0)(Link).options(label_selector=_here()).remote()
        stop.wake = lambda: link.ask_to_stop.remote(stop.signal)
        while True:
            try:
                outcome = _attempt(recipe, link, stop)
                if outcome.metrics is not None:
                    return outcome.metrics
                assert outcome.stopped is not None
                number, step = outcome.stopped
                if stop.signal is not None:
                    raise Stopped(number, step)
                if step <= left_at:
                    raise RunError(f"workers were asked to stop, and had come no further than step {step}")
                left_at = step
                say(f"workers were asked to stop, and have committed step {step}; starting again")
            except (RunError, HeldError) as error:
                # After a failure it may be a worker of the last attempt that holds the run, and is about to end.
                hopeless = isinstance(error, FinalError) or (isinstance(error, HeldError) and not failures)
                failures += 1
                if hopeless or stop.signal is not None or failures > recipe.cluster.max_failures:
                    raise
                say(f"{error}; starting again ({failures} of {recipe.cluster.max_failures})")


def _attempt(recipe: Recipe, link: Any, stop: StopRequest) -> Outcome:
    """Train with a group of workers, which Ray resizes where that is allowed, until all have ended or one has failed."""
    forget(recipe)
    begun = ray.get(link.begun.remote())
    fit = _in_thread(_trainer(recipe, link).fit)
    _wait_for_room(recipe, fit, lambda: ray.get(link.begun.remote()) > begun, stop)
    try:
        return fit.result().return_value
    except WorkerGroupError as error:
        raise _cause(error.worker_failures) from None
    except ControllerError as error:
        raise RunError(f"Ray Train: {one_line(error.controller_failure)}") from None
    except ray.exceptions.RayActorError:
        raise RunError("Ray Train's controller has died") from None
    finally:
        forget(recipe)


def _trainer(recipe: Recipe, link: Any) -> TensorflowTrainer:
    fewest, most = recipe.cluster.bounds
    resources = {"CPU": recipe.cluster.cpus, "GPU": _gpus(recipe)}
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        environment["STORAGE_EMULATOR_HOST"] = emulator
    return TensorflowTrainer(
        work,
        train_loop_config={"recipe": recipes.to_toml(recipe), "link": link},
        tensorflow_config=cast(Any, Workers()),
        scaling_config=ScalingConfig(
            num_workers=fewest if fewest == most else (fewest, most),
            use_gpu=resources["GPU"] > 0,
            resources_per_worker=resources,
            placement_strategy=recipe.cluster.placement,
            elastic_resize_monitor_interval_s=recipe.cluster.resize_every,
        ),
        # Failures come to `train`, which tells the recipe's from the cluster's.
        run_config=RunConfig(
            **ray_storage(recipe),
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _gpus(recipe: Recipe) -> int:
    """GPUs of a worker: those asked for, or all that each host with any has at least."""
    if recipe.cluster.gpus >= 0:
        return recipe.cluster.gpus
    counts = [int(host["Resources"].get("GPU", 0)) for host in ray.nodes() if host["Alive"]]
    return min(filter(None, counts), default=0)


def _wait_for_room(recipe: Recipe, fit: Future[Any], begun: Callable[[], bool], stop: StopRequest) -> None:
    """Until the workers have begun or the attempt has failed; raises FinalError when the cluster has no room for long."""
    since, told = time.monotonic(), False
    while not wait([fit], 1.0).done and not begun():
        waited = time.monotonic() - since
        if stop.signal is not None:
            say("stopped before the workers had begun")
            sys.exit(128 + stop.signal)
        if waited > recipe.cluster.start_timeout:
            raise FinalError(f"no room within {waited:.0f} s (cluster.start_timeout) {_lacking(recipe)}")
        if waited > _NOTICE and not told:
            say(f"waiting for room {_lacking(recipe)}")
            told = True


def _lacking(recipe: Recipe) -> str:
    """What of the cluster the workers need, and what there is."""
    fewest, _ = recipe.cluster.bounds
    need = f"for {fewest} workers with {recipe.cluster.cpus} CPUs and {_gpus(recipe)} GPUs each"
    total, free = ray.cluster_resources(), ray.available_resources()
    there = (f"{free.get(kind, 0):.0f} of {total.get(kind, 0):.0f} {kind}s are free" for kind in ("CPU", "GPU"))
    return f"{need}: {', '.join(there)}"


def _cause(failures: dict[int, Exception]) -> Exception:
    """What ended the workers: a mistake in the recipe before a failure, a failure before what it did to the others."""
    causes = {rank: getattr(error, "_base_exc", error) for rank, error in failures.items()}
    for kind in (CallerError, FinalError):
        if found := [cause for cause in causes.values() if isinstance(cause, kind)]:
            return found[0]
    rank, cause = min(causes.items(), key=lambda item: isinstance(item[1], RunError))
    if isinstance(cause, RunError):
        return cause
    if isinstance(cause, ray.exceptions.RayError | RayTrainError):
        return RunError(f"worker {rank} has died, or its host")
    print(failures[rank], file=sys.stderr)
    return RunError(f"worker {rank}: {type(cause).__name__}: {one_line(cause)}")


@contextlib.contextmanager
def _cluster(recipe: Recipe) -> Iterator[None]:
    """Be connected to the cluster that there is, or to a local one that has room for the most workers allowed."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        if address == "local":
            raise ConnectionError
        ray.init(address, logging_level=logging.ERROR, runtime_env=_environment(address))
    except ConnectionError as error:
        if address not in ("auto", "local"):
            raise CallerError(f"RAY_ADDRESS = {address!r}: no Ray cluster answers there: {one_line(error)}") from None
        cpus = max(os.cpu_count() or 1, recipe.cluster.bounds[1] * recipe.cluster.cpus)
        say(f"starting Ray on this machine, with room for {cpus} CPUs")
        os.environ["RAY_GCS_SERVER_PORT"] = port = str(free_port())
        ray.init("local", num_cpus=cpus, logging_level=logging.ERROR, runtime_env=_environment(f"127.0.0.1:{port}"))
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray: {one_line(error)}") from error
    finally:
        ray.shutdown()


def _environment(address: str) -> dict[str, Any]:
    """What the environment of all processes of the job has besides; with the address they find their cluster of several."""
    known = {} if address == "auto" else {"RAY_ADDRESS": address}
    return {"env_vars": {"PYTHONWARNINGS": "ignore::DeprecationWarning"} | known}


def _here() -> dict[str, str]:
    """Ray's label of the host that this process is on, which it ends with."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Its result to come, from a thread: on the main thread Ray Train would handle Ctrl-C in its own way."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    return future


def say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)
