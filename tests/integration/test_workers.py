"""One run on several workers, each a process that TF_CONFIG tells of the others."""

import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import tensorflow as tf

from catdog.errors import CallerError
from catdog.storage import Bucket, open_bucket
from catdog.training.worker_group import make_group
from tests.integration.processes import Process, TfConfigGroup, assert_close, light
from tests.integration.recording import canonical, recorded
from tests.pace import within

WORKER = """
import sys
from pathlib import Path
from catdog import cli
from tests.integration import small_backbone
from tests.integration.recording import record

small_backbone.use()
record(Path(sys.argv[1]))
sys.exit(cli.run(["train", *sys.argv[2:]]))
"""

FIRST_OF_TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'


class Workers(TfConfigGroup):
    """The workers of one run."""

    def __init__(self, recipes: Sequence[Path], run: Bucket) -> None:
        self.recorded = recipes[0].parent / f"{time.monotonic_ns()}-examples"
        command = [sys.executable, "-c", WORKER, str(self.recorded)]
        super().__init__([[*command, str(recipe), "--run", run.uri] for recipe in recipes], recipes[0].parent)

    def wait_for(self, text: str) -> None:
        """Until the first worker has printed it."""
        deadline = time.monotonic() + within(120)
        while text not in self.told(0):
            assert all(process.poll() is None for process in self.processes), self.told(0) + self.told(1)
            assert time.monotonic() < deadline, self.told(0) + self.told(1)
            time.sleep(0.05)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_train_on_the_batches_of_one_and_end_where_one_does(
    light_recipe_file: Path, tmp_path: Path, light_run: Bucket, small_data: Bucket, count: int
) -> None:
    run = open_bucket(str(tmp_path / "run"))
    with Workers([light_recipe_file] * count, run) as workers:
        assert workers.wait() == [0] * count, workers.told(0) + workers.told(1)
    assert recorded(workers.recorded) == canonical(small_data, 4, 16, 40)
    assert_close(run, light_run)
    assert "step 40/40" in workers.told(0) and "step " not in workers.told(1)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_asked_to_stop_one_worker_stops_all_after_the_same_step_and_one_alone_goes_on_from_there(
    light_recipe_file: Path, tmp_path: Path, light_run: Bucket, asked: int
) -> None:
    run = open_bucket(str(tmp_path / "run"))
    with Workers([light_recipe_file] * 2, run) as workers:
        workers.wait_for("step 14/40")
        workers.processes[asked].send_signal(signal.SIGTERM)
        assert workers.wait() == [128 + signal.SIGTERM] * 2, workers.told(0) + workers.told(1)
    (step,) = {found for worker in (0, 1) for found in re.findall(r"at step (\d+), which is", workers.told(worker))}
    assert 14 <= int(step) < 40
    assert f"going on from step {step} of 40" in Process(light_recipe_file, run, command=light()).finish()
    assert_close(run, light_run)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_worker_is_killed_the_others_end_in_one_line_and_two_go_on_from_what_is_committed(
    light_recipe_file: Path, tmp_path: Path, light_run: Bucket, killed: int
) -> None:
    run, left = open_bucket(str(tmp_path / "run")), 1 - killed
    with Workers([light_recipe_file] * 2, run) as workers:
        workers.wait_for("step 14/40")
        workers.processes[killed].kill()
        assert workers.processes[left].wait(within(60)) == 1
        assert f"catdog: failed: worker {left} of 2: another one has ended" in workers.told(left)
    with Workers([light_recipe_file] * 2, run) as again:
        assert again.wait() == [0, 0], again.told(0) + again.told(1)
    assert "going on from step" in again.told(0)
    assert_close(run, light_run)


def test_a_worker_with_another_recipe_is_refused(light_recipe_file: Path, tmp_path: Path) -> None:
    run = open_bucket(str(tmp_path / "run"))
    other = light_recipe_file.with_name("other.toml")
    other.write_text(light_recipe_file.read_text().replace("1e-2", "2e-2"))
    with Workers([light_recipe_file, other], run) as workers:
        assert workers.processes[1].wait(within(60)) == 2
        assert "worker 1 differs from the first one in phases.0.learning_rate: 0.01 → 0.02" in workers.told(1)


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": true}}',
        '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": "ab"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": 3}',
        "[" * 9999,
        "\udcff",
    ],
)
def test_a_description_of_a_cluster_that_is_none_is_refused(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(CallerError, match="TF_CONFIG"):
        make_group("auto")


def test_several_workers_have_no_other_strategy_than_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", FIRST_OF_TWO)
    with pytest.raises(CallerError, match=r"run\.strategy = 'cpu:2': must be 'auto'"):
        make_group("cpu:2")


def test_the_gpus_of_a_worker_grow_their_memory_from_before_tensorflow_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setenv("TF_CONFIG", FIRST_OF_TWO)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *call: calls.append(call))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: calls.append("starts") or MagicMock())
    make_group("auto")
    assert calls == [("GPU:0", True), ("GPU:1", True), "starts"]
