"""How the workers of a group come to know of each other, and each of a request to stop."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from catdog.errors import RunError
from catdog.training.signals import StopRequest, listening

_DRAIN_POLL = 2.0
"""Seconds between two looks at whether this worker's host is to be taken away."""

_PARTING = 60.0
"""Seconds in which workers that are to be replaced may come to a commit."""

_listening = contextlib.ExitStack()
_ended: Future[None] = Future()
_request: StopRequest | None = None


class Workers(BackendConfig):
    """Ray's own TensorflowConfig without its import of TensorFlow, which costs each process of the job seconds."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Backend


class _Backend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get([worker_group.execute_single_async(n, _begin, addresses, n) for n in range(len(addresses))])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before Ray ends workers that are well, to begin with fewer or more, they commit where they are."""
        waiting = [worker_group.execute_single_async(n, _leave) for n in range(len(worker_group))]
        while waiting:
            left, waiting = ray.wait(waiting, timeout=_PARTING)
            try:
                ray.get(left)
            except Exception:
                return  # one has failed, and so the others can't commit
            if not left:
                return


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def _free_address() -> str:
    return f"{ray.util.get_node_ip_address()}:{free_port()}"


def _begin(addresses: list[str], index: int) -> None:
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})


def _listen() -> None:
    """For the main thread, which alone may handle signals; training has a thread of its own."""
    global _request
    _request = _listening.enter_context(listening())


def _leave() -> None:
    """Ask this worker to stop, and wait until it has; raises what has ended it."""
    if _request is None:
        raise RunError("this worker is not training yet")
    if not _ended.done():
        print("this worker is to be replaced, and commits first if the others do", file=sys.stderr)
    _request.ask(signal.SIGTERM)
    _ended.result(_PARTING)


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
def stop_request(link: Any) -> Iterator[StopRequest]:
    """This worker's request to stop: made by a signal, by the driver, or because its host is to be drained.

    To be called once TensorFlow's workers are together, for it then takes SIGTERM for itself.
    """
    ray.get(ray.get_runtime_context().current_actor.execute.remote(_listen))
    assert _request is not None
    threading.Thread(target=_watch, args=(link, _request), name="stopping", daemon=True).start()
    yield _request


def _watch(link: Any, request: StopRequest) -> None:
    here = ray.get_runtime_context().get_node_id()
    asked = link.asked_to_stop.remote()
    with contextlib.suppress(ray.exceptions.RayActorError):  # the driver has ended, and with it this worker
        while request.signal is None:
            if ray.wait([asked], timeout=_DRAIN_POLL)[0]:
                request.ask(ray.get(asked))
            elif here in ray._private.state.state.get_draining_nodes():
                request.ask(signal.SIGTERM)
