"""A real Ray cluster of several nodes on this machine, which come and go, and jobs on it."""

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import ray
import requests
from ray.cluster_utils import Cluster

from catdog.storage import Bucket
from infra import ray_node
from job.node import leave
from job.tf_config import free_port
from tests.integration.forked import spawned
from tests.integration.processes import Process
from tests.pace import within

DRIVER = """
import sys
from functools import partial
from job import driver, train
from tests.integration import recording

driver.work = partial(recording.recorded_work, sys.argv.pop(1), float(sys.argv.pop(1)), sys.argv.pop(1) == "light")
train.main()
"""


class Nodes:
    """A cluster whose head has no CPU for workers, and whose other nodes have two each."""

    def __init__(self) -> None:
        ray_node.wait_longer()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes: list[Any] = []

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return self.cluster.address

    def be(self, count: int) -> None:
        """Have so many nodes for workers."""
        while len(self.nodes) > count:
            self.kill(self.nodes[-1])
        while len(self.nodes) < count:
            self.add()

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=2))

    def kill(self, node: Any) -> None:
        """As a host dies, with all that runs on it."""
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def leave(self, node: Any) -> None:
        """As a pod ends that Kubernetes takes away: what trains there is asked to go first, and goes."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        assert leave(raylet, within=within(60))
        self.kill(node)

    def replace(self) -> None:
        """One host dies and another comes."""
        self.kill(self.nodes[0])
        self.add()

    def metrics(self) -> str:
        """What all nodes tell of metrics, as Prometheus reads it."""
        told = ""
        for node in self.cluster.list_all_nodes():
            with contextlib.suppress(requests.ConnectionError):  # what tells it starts later than the node
                told += requests.get(f"http://127.0.0.1:{node.metrics_export_port}/metrics", timeout=within(10)).text
        return told

    def processes(self, title: str) -> list[psutil.Process]:
        """Ray's processes of a kind, on all nodes."""
        raylets = [
            psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.cluster.list_all_nodes()
        ]
        return [
            child for raylet in raylets for child in raylet.children() if f"ray::{title}" in " ".join(child.cmdline())
        ]


class Autoscaled:
    """A cluster whose head has no CPU, and whose autoscaler brings nodes of two CPUs when they are asked for, and takes
    them away when they are idle."""

    def __init__(self, folder: Path, most: int) -> None:
        self.address = f"{ray.util.get_node_ip_address()}:{free_port()}"
        nodes = {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": most},
        }
        provider = {"type": "fake_multinode", "gcs_address": self.address}
        provider |= dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
        config = {"cluster_name": "test", "max_workers": most, "idle_timeout_minutes": within(20) / 60}
        config |= {
            "provider": provider,
            "available_node_types": nodes,
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
        }
        config |= {"file_mounts": {}, "docker": {}, "auth": {}, "cluster_synced_files": []}
        config |= {f"{what}_commands": [] for what in ("setup", "initialization", "head_setup", "worker_setup")}
        config |= {"head_start_ray_commands": [], "worker_start_ray_commands": []}
        path = folder / "autoscaler.json"
        path.write_text(json.dumps(config))
        words = ["start", "--head", "--block", "--num-cpus=0", f"--port={self.address.rpartition(':')[2]}"]
        words += [f"--autoscaling-config={path}", "--include-dashboard=false", "--disable-usage-stats"]
        words += ["--dashboard-agent-listen-port=0"]
        environment = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        with open(folder / "head.log", "wb") as log:
            command = [sys.executable, "-m", "ray.scripts.scripts", *words]
            self._head = psutil.Popen(command, env=environment, stdout=log, stderr=log)

    def __enter__(self) -> "Autoscaled":
        return self

    def __exit__(self, *_: object) -> None:
        processes = [*self._head.children(recursive=True), self._head]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=within(10))

    def nodes(self) -> int:
        """Nodes for workers that there are now."""
        raylets = [each for each in self._head.children(recursive=True) if each.name() == "raylet"]
        return len(raylets) - 1


class Job(Process):
    """`python -m job.train` on a cluster, whose workers write down the examples that they see, and, with `light`, train a
    backbone of a few hundred weights."""

    def __init__(
        self, address: str, recipe: Path, run: Bucket, *settings: str, pause: float = 0.0, light: bool = True
    ) -> None:
        self.examples = recipe.parent / "examples"
        command = [sys.executable, "-c", DRIVER, str(self.examples), str(pause), "light" if light else "whole"]
        environment = os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        super().__init__(recipe, run, *settings, command=command, start=spawned, environment=environment)

    def workers(self) -> dict[int, int]:
        """The process of each worker of the newest group, by rank."""
        found = re.findall(r"pid=(\d+).*?\) worker (\d+) of", self.log.read_text())
        return {int(rank): int(pid) for pid, rank in found}
