"""Processes that train, alone or as workers of one cluster, and what is compared of the runs that they leave."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from catdog.storage import Bucket
from catdog.training.checkpoint import Checkpoints
from tests.integration.forked import Environment, Forked
from tests.pace import within

STEPS = 40
CATDOG = (sys.executable, "-m", "catdog", "train")
Start = Callable[[Sequence[str], Path, Environment], Forked | subprocess.Popen[bytes]]


class Process:
    """A command that trains, `catdog train` unless another is given, in a process of its own, what it prints in a file."""

    def __init__(
        self,
        recipe: Path,
        run: Bucket,
        *settings: str,
        command: Sequence[str] = CATDOG,
        start: Start = Forked,
        environment: Environment = None,
    ) -> None:
        self.log = recipe.parent / f"{time.monotonic_ns()}.log"
        self.process = start([*command, str(recipe), "--run", run.uri, *settings], self.log, environment)

    def wait_until(self, reached: Callable[[str], bool]) -> None:
        """Wait until `reached` holds of what the run has printed."""
        deadline = time.monotonic() + within(300)
        while not reached(self.log.read_text()):
            assert self.process.poll() is None, f"ended before the moment came:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def stop_when(self, reached: Callable[[str], bool], number: int) -> int:
        """Send a signal as soon as `reached` holds of what the run has printed; the exit code."""
        self.wait_until(reached)
        self.process.send_signal(number)
        return self.process.wait(within(120))

    def finish(self) -> str:
        assert self.process.wait(within(300)) == 0, self.log.read_text()
        return self.log.read_text()


class TfConfigGroup:
    """Processes that TF_CONFIG tells of each other, one a command, without a GPU, what they print in files."""

    def __init__(self, commands: Sequence[Sequence[str]], logs: Path, start: Start = Forked) -> None:
        with ExitStack() as closing:
            sockets = [closing.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in commands]
            addresses = [f"127.0.0.1:{end.getsockname()[1]}" for end in sockets]
        self.logs, self.processes = [], []
        for worker, command in enumerate(commands):
            self.logs.append(logs / f"{time.monotonic_ns()}-{worker}.log")
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
            environment = os.environ | {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
            self.processes.append(start(command, self.logs[-1], environment))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self) -> list[int]:
        return [process.wait(within(150)) for process in self.processes]

    def told(self, worker: int) -> str:
        return self.logs[worker].read_text()


def light(stop_at: int = 0, seconds: float = 0.0) -> tuple[str, ...]:
    """A command that trains a backbone of a few hundred weights, asked to stop at a step; each takes so many seconds more."""
    return (sys.executable, "-m", "tests.integration.small_backbone", str(stop_at), str(seconds), "train")


def past(step: int) -> Callable[[str], bool]:
    """The run has shown a line of metrics at or after a step."""
    return lambda log: any(f"step {n}/{STEPS} " in log for n in range(step, STEPS + 1))


def lines(run: Bucket) -> list[tuple[object, ...]]:
    """What metrics.jsonl tells, but for the clock."""
    read = [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    return [(m["step"], m["phase"], m["split"], m["loss"], m["accuracy"]) for m in read]


def final_weights(run: Bucket) -> dict[str, bytes]:
    checkpoints = Checkpoints(run, keep=2)
    _, arrays = checkpoints.restore(max(checkpoints.steps()))
    return {name: array.tobytes() for name, array in arrays.items() if not name.startswith("optimizer/")}


def assert_same(run: Bucket, undisturbed: Bucket) -> None:
    """The final weights, the lines of metrics and the test's predictions are equal, bit for bit."""
    assert final_weights(run) == final_weights(undisturbed)
    assert lines(run) == lines(undisturbed)
    predictions = "evaluation/test/predictions.csv"
    assert run.read(predictions) == undisturbed.read(predictions)


def assert_close(run: Bucket, alone: Bucket) -> None:
    """The lines of metrics, the final weights and the examples evaluated, each once, are those of the run of one process, but
    for the last digits."""
    ours, theirs = final_weights(run), final_weights(alone)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.startswith("model/"):
            ends = (np.frombuffer(weights[name], np.float32) for weights in (ours, theirs))
            # Adam's steps are as long as the rate, here 1e-2, where a gradient is nothing but last digits, too.
            np.testing.assert_allclose(*ends, atol=1e-4)
    predictions = [bucket.read("evaluation/test/predictions.csv").decode().split() for bucket in (run, alone)]
    assert [row.split(",")[0] for row in predictions[0]] == [row.split(",")[0] for row in predictions[1]]
    assert [line[:3] for line in lines(run)] == [line[:3] for line in lines(alone)]
    np.testing.assert_allclose([line[3] for line in lines(run)], [line[3] for line in lines(alone)], rtol=1e-3)
