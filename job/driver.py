"""A recipe on the workers of a Ray cluster, started again after what clusters do to runs."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError

from catdog.command.program import signalled
from catdog.data.process_pool import cores
from catdog.errors import CallerError, FinalError, HeldError, RunError, Stopped, one_line, tell
from catdog.parsing import entry, parse_json
from catdog.recipe import Recipe, check_replicas, check_strategy, override, to_toml
from catdog.storage.google import PAYER
from catdog.training.signals import StopRequest, listening
from job.capacity import Demand, free_workers, gpus_per_worker, lacking, worker_resources
from job.ray_private import names
from job.ray_private.pieces import CLUSTER, START_TIMED_OUT, TRAIN_ERROR, TRAINER, check
from job.ray_storage import claim, ray_storage, release
from job.stopping import Coordinator
from job.tf_config import TfConfig, free_port
from job.worker import work

_NOTICE = 30.0
"""Seconds of waiting for room on the cluster after which it is told."""


def train(recipe: Recipe) -> dict[str, Any]:
    """Run the recipe, with absolute places, on the workers of a Ray cluster; what evaluation/test/metrics.json then holds.

    The workers are started again from the newest commit when they have ended for a reason that is not the recipe's: at
    most `cluster.max_failures` times, those not counted that were asked to leave and committed first. Raises
    CallerError, RunError, and Stopped after a SIGTERM or Ctrl-C to this process, once the state is committed; and
    SystemExit with the exit code of a signal that came before any worker had begun.
    """
    check(CLUSTER)
    attempts, failures, left_at = 0, 0, -1
    with _cluster(recipe), listening() as stop:
        recipe = override(recipe, [("cluster.gpus", str(gpus_per_worker(recipe.cluster)))])
        _check_sizes(recipe)
        while True:
            attempts += 1
            try:
                return _attempt(recipe, stop)
            except Stopped as stopped:
                if stop.signal is not None:
                    raise
                if stopped.step > left_at:
                    left_at = stopped.step
                    _say(f"workers have stopped and committed step {left_at}; starting again")
                    continue
                error: Exception = RunError(f"workers have stopped again before step {left_at + 1}")
            except (RunError, HeldError) as failure:
                error = failure
            # Later it may be a worker of the last attempt that still holds the run, and is about to end.
            final = isinstance(error, FinalError) or (isinstance(error, HeldError) and attempts == 1)
            failures += 1
            if final or stop.signal is not None or failures > recipe.cluster.max_failures:
                raise error
            _say(f"{error}; starting again ({failures} of {recipe.cluster.max_failures})")


def _attempt(recipe: Recipe, stop: StopRequest) -> dict[str, Any]:
    """Train with as many workers as there is room for, until they are done or have stopped, one has failed, or there is
    room for more."""
    claim(recipe)
    coordinator: Any = ray.remote(num_cpus=0)(Coordinator).options(label_selector=_here()).remote()
    demand = Demand(recipe.cluster, recipe.run.uri)
    stop.wake = lambda: coordinator.ask_to_stop.remote(stop.signal)
    if stop.signal is not None:
        stop.wake()
    try:
        fit, workers = _begun(recipe, coordinator, stop, demand)
        looked, growing = time.monotonic(), False
        while not wait([fit], 1.0).done:
            demand.renew(workers)
            if not growing and time.monotonic() - looked > recipe.cluster.resize_every:
                looked = time.monotonic()
                if not ray.get(coordinator.advanced.remote()):
                    continue  # where hosts come and go, workers that start anew for each would never take a step
                if more := min(free_workers(recipe.cluster), recipe.cluster.bounds[1] - workers):
                    _say(f"there is room for {more} more workers, which are taken in after a commit")
                    coordinator.ask_to_stop.remote(signal.SIGTERM)
                    growing = True
        ended = fit.result().return_value
    except WorkerGroupError as error:
        raise cause(error) from None
    except ControllerError as error:
        raise RunError(f"Ray Train: {one_line(error.controller_failure)}") from None
    except ray.exceptions.ActorDiedError as error:
        if error.actor_init_failed:
            raise FinalError(f"Ray Train's controller can't start: {_last_line(error)}") from None
        raise RunError(f"Ray Train's controller has died: {_last_line(error)}") from None
    finally:
        ray.kill(coordinator)
        demand.cancel()
        with contextlib.suppress(RunError, CallerError, OSError):  # what has come of the run counts more
            release(recipe)
    if isinstance(ended, Stopped):
        raise ended
    return ended


def _begun(recipe: Recipe, coordinator: Any, stop: StopRequest, demand: Demand) -> tuple[Future[Any], int]:
    """Ray Train's result to come, of workers that have begun, and their number.

    Raises FinalError when the cluster has no room for `cluster.start_timeout`.
    """
    since, told = time.monotonic(), False
    fewest, most = recipe.cluster.bounds
    while True:
        free = free_workers(recipe.cluster)
        workers = min(max(free, fewest), most)
        fit = _in_thread(_trainer(recipe, coordinator, workers).fit)
        while not wait([fit], 1.0).done:
            demand.renew(workers)
            if ray.get(coordinator.begun.remote()):
                return fit, workers
            if stop.signal is not None:
                _say("stopped before the workers had begun")
                sys.exit(signalled(stop.signal))
            waited = time.monotonic() - since
            if waited > recipe.cluster.start_timeout:
                raise FinalError(f"no room within {waited:.0f} s (cluster.start_timeout) {lacking(recipe.cluster)}")
            if waited > _NOTICE and free < fewest and not told:
                _say(f"waiting for room {lacking(recipe.cluster)}")
                told = True
        failure = fit.exception()
        if not isinstance(failure, ControllerError) or not isinstance(
            failure.controller_failure, START_TIMED_OUT.get()
        ):
            return fit, workers


def _trainer(recipe: Recipe, coordinator: Any, workers: int) -> Any:
    """Ray's TensorflowTrainer but for its TensorflowConfig, which would import TensorFlow here and in Ray's own processes."""
    # What ends workers comes to `train`, which tells the recipe's failures from the cluster's.
    # mypy sees the classes of Ray Train's first version, which `ray.train` exchanges for those of the second.
    limits = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)  # type: ignore[call-arg]
    run_config = RunConfig(  # type: ignore[call-arg]
        **ray_storage(recipe), failure_config=limits, logging_config=LoggingConfig(log_level="CRITICAL")
    )
    return TRAINER.get()(
        work,
        train_loop_config={"recipe": to_toml(recipe), "coordinator": coordinator},
        backend_config=TfConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=recipe.cluster.gpus > 0,
            resources_per_worker=worker_resources(recipe.cluster),
            placement_strategy=recipe.cluster.placement,
        ),
        run_config=run_config,
    )


def _check_sizes(recipe: Recipe) -> None:
    """Raises CallerError for a number of workers that is allowed, but that the recipe can't be trained with."""
    fewest, most = recipe.cluster.bounds
    check_strategy(recipe.run.strategy, most)
    for workers in range(fewest, most + 1):
        check_replicas(recipe, workers * max(recipe.cluster.gpus, 1))


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
    if isinstance(found_first, (ray.exceptions.RayError, TRAIN_ERROR.get())):
        return RunError(f"worker {rank} has died, or its host: {_last_line(found_first)}")
    for line in str(error).splitlines():  # with the traceback
        tell(line, file=sys.stderr)
    return RunError(f"worker {rank}: {type(found_first).__name__}: {one_line(found_first)}")


def _last_line(error: BaseException) -> str:
    """What Ray says in the end, without what it then supposes."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1].partition("There are some potential root")[0]
    return said.strip()[:300]


@contextlib.contextmanager
def _cluster(recipe: Recipe) -> Iterator[None]:
    """Be connected to the cluster that there is, or to a local one that has room for the most workers allowed."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        if address == "local":
            raise ConnectionError
        _require_answer(address)
        ray.init(address, logging_level=logging.ERROR, runtime_env=_environment(address))
    except ConnectionError as error:
        if address not in ("auto", "local"):
            raise CallerError(f"RAY_ADDRESS = {address!r}: no Ray cluster answers there: {one_line(error)}") from None
        cpus = max(cores(), recipe.cluster.bounds[1] * recipe.cluster.cpus)
        _say(f"starting Ray on this machine, with room for {cpus} CPUs")
        os.environ[names.GCS_PORT] = port = str(free_port())
        os.environ[names.STATE_TRACKING] = "0"  # for a page of a dashboard that nobody is told of
        ray.init("local", num_cpus=cpus, logging_level=logging.ERROR, runtime_env=_environment(f"127.0.0.1:{port}"))
    except (ValueError, ray.exceptions.RayError) as error:
        raise CallerError(f"RAY_ADDRESS = {address!r}: {one_line(error)}") from None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(signalled(number)))  # Ray's handler would exit with 15
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray: {one_line(error)}") from error
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises ConnectionError if an address of the form HOST:PORT is one where nothing listens; Ray would try for minutes."""
    if found := re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(one_line(error)) from None


def _environment(address: str) -> dict[str, Any]:
    """What the environment of all processes of the job has besides what a submitted job brings along.

    Without the address, Ray Train's would search this machine for their cluster, and fail where there are several.
    """
    wanted = {
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "RAY_ADDRESS": None if address == "auto" else address,
        **{name: os.environ.get(name) for name in ("STORAGE_EMULATOR_HOST", PAYER)},
    }
    brought = _brought(os.fsencode(os.environ.get(names.JOB_CONFIG) or "{}"))  # which Ray does not let us set again
    return {"env_vars": {name: value for name, value in wanted.items() if value and name not in brought}}


def _brought(job: bytes) -> dict[str, Any]:
    """The variables that a submitted job brings along, as Ray tells the job; raises RunError where it does not."""
    try:
        config = entry({"job": parse_json(job)}, "job", dict)
        runtime_env = entry({"runtime_env": {}} | config, "runtime_env", dict)
        return entry({"env_vars": {}} | runtime_env, "env_vars", dict, "runtime_env.")
    except ValueError as error:
        raise RunError(f"{names.JOB_CONFIG}: is not what Ray tells a job: {error}") from None


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


def _say(text: str) -> None:
    tell(f"job.train: {text}", file=sys.stderr)
