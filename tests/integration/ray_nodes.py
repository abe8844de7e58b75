"""A real Ray cluster of several nodes on this machine, which come and go, and jobs on it."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import requests
from ray.cluster_utils import Cluster

from catdog.storage import Bucket
from tests.integration.processes import Process

DRIVER = """
import sys
from functools import partial
from job import driver, train
from tests.integration import recording

driver.work = partial(recording.recorded_work, sys.argv.pop(1), float(sys.argv.pop(1)))
train.main()
"""


class Nodes:
    """A cluster whose head has no CPU for workers, and whose other nodes have two each."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes: list[Any] = []

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

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

    def drain(self, node: Any) -> None:
        """As a cloud tells of a host that it is about to take away."""
        words = ["--address", self.cluster.address, "--node-id", node.node_id, "--deadline-remaining-seconds", "60"]
        words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "preempted"]
        subprocess.run([Path(sys.executable).with_name("ray"), "drain-node", *words], check=True, capture_output=True)
        self.nodes.remove(node)

    def replace(self) -> None:
        """One host dies and another comes."""
        self.kill(self.nodes[0])
        self.add()

    def metrics(self) -> str:
        """What all nodes tell of metrics, as Prometheus reads it."""
        told = ""
        for node in self.cluster.list_all_nodes():
            with contextlib.suppress(requests.ConnectionError):  # what tells it starts later than the node
                told += requests.get(f"http://127.0.0.1:{node.metrics_export_port}/metrics", timeout=10).text
        return told

    def processes(self, title: str) -> list[psutil.Process]:
        """Ray's processes of a kind, on all nodes."""
        raylets = [
            psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.cluster.list_all_nodes()
        ]
        return [
            child for raylet in raylets for child in raylet.children() if f"ray::{title}" in " ".join(child.cmdline())
        ]


class Job(Process):
    """`python -m job.train` on a cluster, whose workers write down the examples that they see."""

    def __init__(self, nodes: Nodes, recipe: Path, run: Bucket, *settings: str, pause: float = 0.0) -> None:
        self.examples = recipe.parent / "examples"
        command = [sys.executable, "-c", DRIVER, str(self.examples), str(pause)]
        environment = os.environ | {"RAY_ADDRESS": nodes.cluster.address, "RAY_AUTH_MODE": "disabled"}
        super().__init__(recipe, run, *settings, command=command, environment=environment)

    def workers(self) -> dict[int, int]:
        """The process of each worker of the newest group, by rank."""
        found = re.findall(r"pid=(\d+).*?\) worker (\d+) of", self.log.read_text())
        return {int(rank): int(pid) for pid, rank in found}
