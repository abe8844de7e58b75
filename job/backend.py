"""How the workers of a group come to know of each other, and each of a request to stop."""

import contextlib
import json
import os
import signal
import socket
import threading
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from catdog.training.signals import StopRequest, listening

_DRAIN_POLL = 2.0
"""Seconds between two looks at whether this worker's host is to be taken away."""

_listening = contextlib.ExitStack()
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


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def _free_address() -> str:
    return f"{ray.util.get_node_ip_address()}:{free_port()}"


def _begin(addresses: list[str], index: int) -> None:
    """Ray runs it on the main thread, which alone may handle signals; training has a thread of its own."""
    global _request
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    _request = _listening.enter_context(listening())


def stop_request(driver: Any) -> StopRequest:
    """This worker's request to stop: made by a signal, by the driver's actor, or because its host is to be drained."""
    assert _request is not None, "Ray starts the backend first"
    threading.Thread(target=_watch, args=(driver, _request), name="stopping", daemon=True).start()
    return _request


def _watch(driver: Any, request: StopRequest) -> None:
    here = ray.get_runtime_context().get_node_id()
    asked = driver.asked_to_stop.remote()
    with contextlib.suppress(ray.exceptions.RayActorError):  # the driver has ended, and with it this worker
        while request.signal is None:
            if ray.wait([asked], timeout=_DRAIN_POLL)[0]:
                request.ask(ray.get(asked))
            elif here in ray._private.state.state.get_draining_nodes():
                request.ask(signal.SIGTERM)
