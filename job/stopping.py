"""How a stop reaches a worker: by a signal, from the driver, because its host is drained or workers are to be replaced.

The state below is that of one worker's process. Training has a thread of its own there; what is to happen on the main
thread, which alone may handle signals, Ray runs there by the actor's method `execute`.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import ray

from catdog.errors import RunError
from catdog.training.signals import StopRequest, listening

_DRAIN_POLL = 2.0
"""Seconds between two looks at whether this worker's host is to be taken away."""
COMMIT_TIMEOUT = 60.0
"""Seconds in which workers that are to be replaced may come to a commit."""

_listening = contextlib.ExitStack()
_ended: Future[None] = Future()
_request: StopRequest | None = None


def _listen() -> None:
    """For the main thread, which alone may handle signals; training has a thread of its own."""
    global _request
    _request = _listening.enter_context(listening())


def stop_and_wait() -> None:
    """Ask this worker to stop, and wait until it has; raises what has ended it."""
    if _request is None:
        raise RunError("this worker is not training yet")
    if not _ended.done():
        print("this worker is to be replaced, and commits first if the others do", file=sys.stderr)
    _request.ask(signal.SIGTERM)
    _ended.result(COMMIT_TIMEOUT)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Inside the block this worker trains; when others are to take its place, they wait until it ends."""
    try:
        yield
    except BaseException as error:
        _ended.set_exception(error)
        raise
    _ended.set_result(None)


@contextlib.contextmanager
def stop_request(control: Any) -> Iterator[StopRequest]:
    """This worker's request to stop: made by a signal, by the driver, or because its host is to be drained.

    To be called once TensorFlow's workers are together, for it then takes SIGTERM for itself.
    """
    ray.get(ray.get_runtime_context().current_actor.execute.remote(_listen))
    assert _request is not None
    threading.Thread(target=_watch, args=(control, _request), name="stopping", daemon=True).start()
    yield _request


def _watch(control: Any, request: StopRequest) -> None:
    here = ray.get_runtime_context().get_node_id()
    asked = control.asked_to_stop.remote()
    with contextlib.suppress(ray.exceptions.RayActorError):  # the driver has ended, and with it this worker
        while request.signal is None:
            if ray.wait([asked], timeout=_DRAIN_POLL)[0]:
                request.ask(ray.get(asked))
            elif here in ray._private.state.state.get_draining_nodes():
                request.ask(signal.SIGTERM)
