"""Kill a run wherever it is, start it again, and it ends as the run that was never killed."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catdog.storage import open_bucket
from catdog.training.checkpoint import Checkpoints

STEPS = 40


class Process:
    """`catdog train` in a process of its own, its stderr in a file."""

    def __init__(self, recipe: Path, run: Path, *settings: str) -> None:
        self.log = run.parent / f"{run.name}-{time.monotonic_ns()}.log"
        with open(self.log, "wb") as stderr:
            command = [sys.executable, "-m", "catdog", "train", str(recipe), "--run", str(run), *settings]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)

    def stop_when(self, reached: Callable[[str], bool], number: int) -> int:
        """Send a signal as soon as `reached` holds of what the run has printed; the exit code."""
        deadline = time.monotonic() + 300
        while not reached(self.log.read_text()):
            assert self.process.poll() is None, f"ended before the moment came:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        self.process.send_signal(number)
        return self.process.wait(120)

    def finish(self) -> str:
        assert self.process.wait(300) == 0, self.log.read_text()
        return self.log.read_text()


def past(step: int) -> Callable[[str], bool]:
    """The run has shown a line of metrics at or after a step."""
    return lambda log: any(f"step {n}/{STEPS} " in log for n in range(step, STEPS + 1))


def lines(run: Path) -> list[tuple[object, ...]]:
    """What metrics.jsonl tells, but for the clock."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(m["step"], m["phase"], m["split"], m["loss"], m["accuracy"]) for m in read]


def final_weights(run: Path) -> dict[str, bytes]:
    checkpoints = Checkpoints(open_bucket(str(run)), keep=2)
    _, arrays = checkpoints.restore(max(checkpoints.steps()))
    return {name: array.tobytes() for name, array in arrays.items() if not name.startswith("optimizer/")}


def predictions(run: Path) -> bytes:
    return (run / "evaluation/test/predictions.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(small_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    Process(small_recipe, run).finish()
    return run


def assert_same(run: Path, undisturbed: Path) -> None:
    assert final_weights(run) == final_weights(undisturbed)
    assert lines(run) == lines(undisturbed)
    assert predictions(run) == predictions(undisturbed)


def test_killed_in_each_phase_in_a_save_and_in_evaluation_it_ends_the_same(
    small_recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, rng = tmp_path / "run", random.Random()
    moments: list[tuple[Callable[[str], bool], int, int]] = [
        (past(rng.randrange(2, 18)), signal.SIGKILL, -signal.SIGKILL),
        (past(rng.randrange(18, 22)), signal.SIGTERM, 143),
        (lambda log: past(23)(log) and any(run.glob("checkpoints/*/.part-*")), signal.SIGKILL, -signal.SIGKILL),
        (past(rng.randrange(30, 36)), signal.SIGINT, 130),
        (lambda log: (run / "model.keras").exists(), signal.SIGKILL, -signal.SIGKILL),
    ]
    for reached, number, code in moments:
        assert Process(small_recipe, run).stop_when(reached, number) == code
    assert not (run / "report.html").exists()
    log = Process(small_recipe, run).finish()
    assert f"going on from step {STEPS} of {STEPS}" in log
    assert " train " not in log
    assert_same(run, undisturbed)


def test_started_again_when_all_is_done_it_only_evaluates(small_recipe: Path, undisturbed: Path) -> None:
    before = lines(undisturbed)
    log = Process(small_recipe, undisturbed).finish()
    assert " train " not in log
    assert lines(undisturbed) == before


def test_the_model_of_a_run_opens_with_plain_keras_and_answers_as_evaluated(undisturbed: Path) -> None:
    program = f"""
import sys, numpy, keras
model = keras.models.load_model({str(undisturbed / "model.keras")!r})
assert not any(name.partition(".")[0] == "catdog" for name in sys.modules)
print(model.predict(numpy.zeros((1, 32, 32, 3)), verbose=0).shape, model.dtype_policy.name)
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "(1, 1) float32", done.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--phases.1.learning_rate", "1e-4"], "phases.1.learning_rate: 0.001 → 0.0001"),
        (["--run.seed", "1"], "run.seed"),
    ],
)
def test_a_run_is_not_continued_with_another_recipe(
    small_recipe: Path, undisturbed: Path, settings: list[str], named: str
) -> None:
    process = Process(small_recipe, undisturbed, *settings)
    assert process.process.wait(120) == 2
    error = process.log.read_text().strip().splitlines()
    assert len(error) == 1
    assert named in error[0]


def test_metrics_hold_each_step_once(undisturbed: Path) -> None:
    steps = [(step, split) for step, _, split, _, _ in lines(undisturbed)]
    assert steps == [
        entry
        for step in range(2, STEPS + 1, 2)
        for entry in ([(step, "train"), (step, "val")] if step % 10 == 0 else [(step, "train")])
    ]


def test_the_newest_and_the_best_checkpoints_are_kept(undisturbed: Path) -> None:
    losses = {step: loss for step, _, split, loss, _ in lines(undisturbed) if split == "val"}
    best = min(losses, key=lambda step: (losses[step], step))
    steps = Checkpoints(open_bucket(str(undisturbed)), keep=2).steps()
    assert steps == sorted({best, 39, 40})
    assert np.isfinite(list(losses.values())).all()
