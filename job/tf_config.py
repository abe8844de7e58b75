"""How the workers of a group come to know of each other."""

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from job.ray_private.pieces import ON_ONE_WORKER


class TfConfig(BackendConfig):
    """Ray's own TensorflowConfig without its import of TensorFlow, which costs each process of the job seconds."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Backend


class _Backend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        begin = ON_ONE_WORKER.of(worker_group)
        ray.get([begin(n, _begin, addresses, n) for n in range(len(addresses))])


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
