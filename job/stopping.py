"""How a stop reaches the workers: by a signal, from the driver, because a host is drained.

The state below is that of one worker's process. Training has a thread of its own there; what is to happen on the main
thread, which alone may handle signals, Ray runs there by a method of the actor's.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray

from catdog.training.signals import StopRequest, listening
from job.ray_private.pieces import DRAINING_NODES, ON_MAIN_THREAD

_DRAIN_POLL = 2.0
"""Seconds between two looks at whether this worker's host is to be taken away."""


class Coordinator:
    """An actor on the driver's host, which the driver and all workers call."""

    def __init__(self) -> None:
        self._begun, self._advanced = 0, False
        self._asked: asyncio.Future[int] = asyncio.Future()

    async def begin(self) -> None:
        """A worker has begun."""
        self._begun += 1

    async def begun(self) -> int:
        """Workers that have begun."""
        return self._begun

    async def advance(self) -> None:
        """The workers have taken a step."""
        self._advanced = True

    async def advanced(self) -> bool:
        """Whether they have."""
        return self._advanced

    async def ask_to_stop(self, number: int) -> None:
        if not self._asked.done():
            self._asked.set_result(number)

    async def asked_to_stop(self) -> int:
        """The number of the signal that asked, once one has."""
        return await asyncio.shield(self._asked)


_listening = contextlib.ExitStack()
_request: StopRequest | None = None


def _listen() -> None:
    """For the main thread."""
    global _request
    _request = _listening.enter_context(listening())


@contextlib.contextmanager
def stop_request(coordinator: Any) -> Iterator[StopRequest]:
    """This worker's request to stop: made by a signal, by the driver, or because its host is to be drained.

    To be called once TensorFlow's workers are together, for it then takes SIGTERM for itself.
    """
    ray.get(ON_MAIN_THREAD.of(ray.get_runtime_context().current_actor).remote(_listen))
    assert _request is not None
    threading.Thread(target=_watch, args=(coordinator, _request), name="stopping", daemon=True).start()
    yield _request


def _watch(coordinator: Any, request: StopRequest) -> None:
    here = ray.get_runtime_context().get_node_id()
    asked = coordinator.asked_to_stop.remote()
    while request.signal is None:
        try:
            if ray.wait([asked], timeout=_DRAIN_POLL)[0]:
                request.ask(ray.get(asked))
            elif here in DRAINING_NODES.get()():
                request.ask(signal.SIGTERM)
        except ray.exceptions.ActorDiedError:
            return  # the driver has ended, and with it this worker
        except Exception:  # the cluster's own process did not answer; it is asked again
            time.sleep(_DRAIN_POLL)
            asked = coordinator.asked_to_stop.remote()
