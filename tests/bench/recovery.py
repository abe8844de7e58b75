"""How long a run under Ray stands still when something is killed: seconds from the kill to the first new step.

Usage: python -m tests.bench.recovery [--rounds 1]
On this machine, with two nodes and two workers, of a run whose state is saved every three steps. The time holds the
start of new processes, the import of TensorFlow and the tracing of the step; beside it stands what a start from nothing
takes, as the first step's seconds from the command.
"""

import argparse
import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from catdog.storage import open_bucket
from tests.integration.ray_nodes import Job, Nodes
from tests.integration.small import small_recipe

PAUSE = 0.3
"""Seconds that each step is held up, so that the run is still going on when the last kill comes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as text, Nodes() as nodes:
        folder = Path(text)
        recipe = small_recipe(folder)
        for number in range(arguments.rounds):
            for name, seconds in _round(nodes, recipe, folder / f"run-{number}").items():
                times.setdefault(name, []).append(seconds)
    for name, found in times.items():
        print(f"{name:12} {statistics.median(found):5.1f} s ({min(found):.1f} to {max(found):.1f})", flush=True)


def _round(nodes: Nodes, recipe: Path, run: Path) -> dict[str, float]:
    nodes.be(2)
    bucket = open_bucket(str(run))

    def start() -> Job:
        return Job(
            nodes.address, recipe, bucket, "--workers", "2", "--cluster.max_failures", "9", pause=PAUSE, light=False
        )

    began = time.monotonic()
    job = start()
    times = {"from nothing": _first_step(job, 1) - began}

    def killed(name: str, kill: Callable[[], None]) -> None:
        past, group = _newest(job), len(times)
        while _newest(job) < past + 3:
            time.sleep(0.05)
        began = time.monotonic()
        kill()
        times[name] = _first_step(job, group + 1) - began

    killed("worker", lambda: os.kill(job.workers()[1], signal.SIGKILL))
    killed("controller", lambda: nodes.processes("TrainController")[0].kill())
    killed("host", nodes.replace)
    began = time.monotonic()
    job.process.kill()
    job.process.wait()
    job = start()
    times["driver"] = _first_step(job, 1) - began
    job.process.send_signal(signal.SIGTERM)
    job.process.wait(120)
    return times


def _newest(job: Job) -> int:
    return max((int(step) for step in re.findall(r" step (\d+)/", job.log.read_text())), default=0)


def _first_step(job: Job, group: int) -> float:
    """When the job's group of workers of this number, from 1, shows its first line of metrics."""
    while not re.search(r" step \d+/", "".join(job.log.read_text().split(" steps, replicas:")[group:])):
        assert job.process.poll() is None, job.log.read_text()
        time.sleep(0.05)
    return time.monotonic()


if __name__ == "__main__":
    main()
