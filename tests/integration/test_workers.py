"""One run on several workers, each a process that TF_CONFIG tells of the others."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from catdog.data.order import Order
from catdog.data.shards import load_manifest
from catdog.errors import CallerError
from catdog.storage import Bucket, open_bucket
from catdog.training.group import make_group
from tests.integration.processes import Process, final_weights, lines

WORKER = """
import json, sys
from catdog import cli
from catdog.training import trainer

make = trainer.make_train_step

def recorded(strategy, state, settings):
    train_step = make(strategy, state, settings)
    def call(batch, learning_rate, step, stopping):
        parts = strategy.experimental_local_results(batch["example"])
        print("examples", json.dumps([step, [int(i) for part in parts for i in part.numpy() if i >= 0]]), flush=True)
        return train_step(batch, learning_rate, step, stopping)
    return call

trainer.make_train_step = recorded
sys.exit(cli.run(["train", *sys.argv[1:]]))
"""


class Workers:
    """The workers of one run, each in a process of its own, what they print in files."""

    def __init__(self, count: int, recipe: Path, run: Bucket) -> None:
        with ExitStack() as closing:
            sockets = [closing.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            addresses = [f"127.0.0.1:{end.getsockname()[1]}" for end in sockets]
        self.logs, self.processes = [], []
        for worker in range(count):
            self.logs.append(recipe.parent / f"{time.monotonic_ns()}-{worker}.log")
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
            with open(self.logs[-1], "wb") as log:
                command = [sys.executable, "-c", WORKER, str(recipe), "--run", run.uri]
                environment = os.environ | {"TF_CONFIG": json.dumps(config)}
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def wait_for(self, text: str) -> None:
        """Until the first worker has printed it."""
        while text not in self.told(0):
            assert self.processes[0].poll() is None, self.told(0)
            time.sleep(0.05)

    def wait(self) -> list[int]:
        try:
            return [process.wait(200) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def told(self, worker: int) -> str:
        return self.logs[worker].read_text()

    def examples(self) -> dict[int, list[int]]:
        """The examples of each step's batch, over all workers."""
        batches: dict[int, list[int]] = {}
        for log in self.logs:
            for found in re.findall(r"^examples (.+)$", log.read_text(), re.MULTILINE):
                step, ids = json.loads(found)
                batches.setdefault(step, []).extend(ids)
        return batches


def assert_close(run: Bucket, alone: Bucket) -> None:
    """The lines of metrics and the final weights are those of the run of one process, but for the last digits."""
    ours, theirs = final_weights(run), final_weights(alone)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.startswith("model/"):
            ends = (np.frombuffer(weights[name], np.float32) for weights in (ours, theirs))
            np.testing.assert_allclose(*ends, atol=1e-5)
    assert [line[:3] for line in lines(run)] == [line[:3] for line in lines(alone)]
    np.testing.assert_allclose([line[3] for line in lines(run)], [line[3] for line in lines(alone)], rtol=1e-3)


@pytest.fixture
def recipe_file(small_recipe: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(small_recipe.read_text())
    return path


def test_two_workers_train_on_the_same_batches_and_end_where_one_does(
    recipe_file: Path, tmp_path: Path, undisturbed: Bucket, small_data: Bucket
) -> None:
    run = open_bucket(str(tmp_path / "run"))
    workers = Workers(2, recipe_file, run)
    assert workers.wait() == [0, 0], workers.told(0) + workers.told(1)
    shards = load_manifest(small_data).split("train")
    order = Order(tuple(shard.examples for shard in shards), 4, 16, 0)
    expected = {step: sorted(batch.example.tolist()) for step, batch in enumerate(order.batches(0, 40))}
    assert {step: sorted(ids) for step, ids in workers.examples().items()} == expected
    assert_close(run, undisturbed)
    names = "evaluation/test/predictions.csv"
    assert [r.split(",")[0] for r in run.read(names).decode().splitlines()] == [
        r.split(",")[0] for r in undisturbed.read(names).decode().splitlines()
    ]
    assert "step 40/40" in workers.told(0) and "step " not in workers.told(1)


def test_asked_to_stop_one_worker_stops_all_after_the_same_step_and_one_alone_goes_on_from_there(
    recipe_file: Path, tmp_path: Path, undisturbed: Bucket
) -> None:
    run = open_bucket(str(tmp_path / "run"))
    workers = Workers(2, recipe_file, run)
    workers.wait_for("step 14/40")
    workers.processes[1].send_signal(signal.SIGTERM)
    assert workers.wait() == [128 + signal.SIGTERM] * 2
    (step,) = {found for worker in (0, 1) for found in re.findall(r"at step (\d+), which is", workers.told(worker))}
    assert 14 <= int(step) < 40
    assert f"going on from step {step} of 40" in Process(recipe_file, run).finish()
    assert_close(run, undisturbed)


def test_when_a_worker_is_killed_the_others_end_in_one_line_and_two_go_on_from_what_is_committed(
    recipe_file: Path, tmp_path: Path, undisturbed: Bucket
) -> None:
    run = open_bucket(str(tmp_path / "run"))
    workers = Workers(2, recipe_file, run)
    workers.wait_for("step 14/40")
    workers.processes[1].kill()
    assert workers.wait() == [1, -signal.SIGKILL]
    assert workers.told(0).splitlines()[-1].startswith("catdog: failed: worker 0 of 2: another one has ended")
    again = Workers(2, recipe_file, run)
    assert again.wait() == [0, 0], again.told(0) + again.told(1)
    assert "going on from step" in again.told(0)
    assert_close(run, undisturbed)


@pytest.mark.parametrize("config", ["{", "[]", '{"cluster": {"worker": ["a:1", "b:1"]}}'])
def test_a_description_of_a_cluster_that_is_none_is_refused(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(CallerError, match="TF_CONFIG"):
        make_group("auto")


def test_several_workers_have_no_other_strategy_than_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}')
    with pytest.raises(CallerError, match=r"run\.strategy = 'cpu:2': must be 'auto'"):
        make_group("cpu:2")
