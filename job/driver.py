"""A recipe on the workers of a Ray cluster, started again after what clusters do to runs."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from catdog import recipe as recipes
from catdog.errors import CallerError, FinalError, HeldError, RunError, one_line
from catdog.recipe import Recipe
from catdog.training.signals import Stopped, StopRequest, listening
from job.backend import TfConfig, free_port
from job.control import Control
from job.storage import ray_storage, remove_rays_files
from job.worker import work

PROGRAM = "job.train"
_NOTICE = 30.0
"""Seconds of waiting for room on the cluster after which it is told."""


def train(recipe: Recipe) -> dict[str, Any]:
    """Run the recipe, with absolute places, on the workers of a Ray cluster; what evaluation/test/metrics.json then holds.

    The workers are started again from the newest commit when they have ended for a reason that is not the recipe's: at
    most `cluster.max_failures` times, those not counted that were asked to leave and committed first. Raises
    CallerError, RunError, and Stopped after a SIGTERM or Ctrl-C to this process, once the state is committed; and
    SystemExit with the exit code of a signal that came before any worker had begun.
    """
    failures, left_at = 0, -1
    with _cluster(recipe), listening() as stop:
        recipe = recipes.override(recipe, [("cluster.gpus", str(_gpus(recipe)))])
        control: Any = ray.remote(num_cpus=0)(Control).options(label_selector=_here()).remote()
        stop.wake = lambda: control.ask_to_stop.remote(stop.signal)
        while True:
            try:
                return _attempt(recipe, control, stop)
            except Stopped as stopped:
                if stop.signal is not None:
                    raise
                if stopped.step > left_at:
                    left_at = stopped.step
                    say(f"workers were asked to stop, and have committed step {left_at}; starting again")
                    continue
                error: Exception = RunError(f"workers were asked to stop again before step {left_at + 1}")
            except (RunError, HeldError) as failure:
                error = failure
            # After a failure it may be a worker of the last attempt that holds the run, and is about to end.
            final = isinstance(error, FinalError) or (isinstance(error, HeldError) and not failures)
            failures += 1
            if final or stop.signal is not None or failures > recipe.cluster.max_failures:
                raise error
            say(f"{error}; starting again ({failures} of {recipe.cluster.max_failures})")


def _attempt(recipe: Recipe, control: Any, stop: StopRequest) -> dict[str, Any]:
    """Train with a group of workers, which Ray resizes where that is allowed, until all have ended or one has failed."""
    remove_rays_files(recipe)
    try:
        begun = ray.get(control.begun.remote())
        fit = _in_thread(_trainer(recipe, control).fit)
        _wait_for_room(recipe, fit, lambda: ray.get(control.begun.remote()) > begun, stop)
        ended = fit.result().return_value
    except WorkerGroupError as error:
        raise cause(error) from None
    except ControllerError as error:
        raise RunError(f"Ray Train: {one_line(error.controller_failure)}") from None
    except ray.exceptions.RayActorError:
        raise RunError("Ray Train's controller has died") from None
    finally:
        remove_rays_files(recipe)
    if isinstance(ended, Stopped):
        raise ended
    return ended


def _trainer(recipe: Recipe, control: Any) -> DataParallelTrainer:
    """Ray's TensorflowTrainer but for its TensorflowConfig, which would import TensorFlow here and in Ray's own processes."""
    fewest, most = recipe.cluster.bounds
    run_config: Any = RunConfig(
        **ray_storage(recipe),
        failure_config=FailureConfig(
            max_failures=0
        ),  # they come to `train`, which tells the recipe's from the cluster's
        logging_config=LoggingConfig(log_level="CRITICAL"),
    )
    return DataParallelTrainer(
        work,
        train_loop_config={"recipe": recipes.to_toml(recipe), "control": control},
        backend_config=TfConfig(),
        scaling_config=ScalingConfig(
            num_workers=fewest if fewest == most else (fewest, most),
            use_gpu=recipe.cluster.gpus > 0,
            resources_per_worker={"CPU": recipe.cluster.cpus, "GPU": recipe.cluster.gpus},
            placement_strategy=recipe.cluster.placement,
            elastic_resize_monitor_interval_s=recipe.cluster.resize_every,
        ),
        run_config=run_config,
    )


def _gpus(recipe: Recipe) -> int:
    """GPUs of a worker: those asked for, or as many as each host has that has any."""
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
    need = f"for {fewest} workers with {recipe.cluster.cpus} CPUs and {recipe.cluster.gpus} GPUs each"
    total, free = ray.cluster_resources(), ray.available_resources()
    there = (f"{free.get(kind, 0):.0f} of {total.get(kind, 0):.0f} {kind}s are free" for kind in ("CPU", "GPU"))
    return f"{need}: {', '.join(there)}"


def cause(error: WorkerGroupError) -> Exception:
    """What ended the workers: a mistake in the recipe before a failure, a failure before what it did to the others."""
    causes = error.worker_failures
    for kind in (CallerError, FinalError):
        if found := [cause for cause in causes.values() if isinstance(cause, kind)]:
            return found[0]
    first = {rank: cause for rank, cause in causes.items() if not isinstance(cause, RunError)} or causes
    rank, found_first = next(iter(first.items()))
    if isinstance(found_first, RunError):
        return found_first
    if isinstance(found_first, ray.exceptions.RayError | RayTrainError):
        return RunError(f"worker {rank} has died, or its host")
    print(error, file=sys.stderr)  # with the traceback
    return RunError(f"worker {rank}: {type(found_first).__name__}: {one_line(found_first)}")


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
    """What the environment of all processes of the job has besides.

    Without the address, Ray Train's would search this machine for their cluster, and fail where there are several.
    """
    passed = {"STORAGE_EMULATOR_HOST": os.environ.get("STORAGE_EMULATOR_HOST"), "RAY_ADDRESS": address}
    named = {name: value for name, value in passed.items() if value not in (None, "auto")}
    return {"env_vars": {"PYTHONWARNINGS": "ignore::DeprecationWarning"} | named}


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
