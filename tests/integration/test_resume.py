"""Kill a run wherever it is, start it again, and it ends as the run that was never killed."""

import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catdog.data.shards import load_manifest
from catdog.runs.folder import Position, read_commit
from catdog.runs.pull import pull
from catdog.storage import Bucket, Folder
from catdog.training.checkpoint import Checkpoints
from tests.integration.processes import CATDOG, STEPS, Process, assert_same, light, lines, past
from tests.pace import within


@pytest.mark.parametrize("backbone", ["light", pytest.param("EfficientNetB0", marks=pytest.mark.slow)])
def test_killed_in_each_phase_in_a_save_and_in_evaluation_it_ends_the_same(
    backbone: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    names = ("light_recipe", "light_run") if backbone == "light" else ("small_recipe", "undisturbed")
    recipe, whole = map(request.getfixturevalue, names)
    command = light(seconds=0.05) if backbone == "light" else CATDOG
    run, rng = Folder(str(tmp_path / "run")), random.Random()
    moments: list[tuple[Callable[[str], bool], int, int]] = [
        (past(rng.randrange(2, 18)), signal.SIGKILL, -signal.SIGKILL),
        (past(rng.randrange(18, 22)), signal.SIGTERM, 143),
        (
            lambda log: past(23)(log) and any(tmp_path.glob("run/checkpoints/*/.part-*")),
            signal.SIGKILL,
            -signal.SIGKILL,
        ),
        (past(rng.randrange(30, 36)), signal.SIGINT, 130),
        (lambda log: run.exists("model.keras"), signal.SIGKILL, -signal.SIGKILL),
    ]
    for reached, number, code in moments:
        process = Process(recipe, run, command=command)
        assert process.stop_when(reached, number) == code
        assert re.search(r"first step after \d+\.\d s\n", process.log.read_text())
    assert not run.exists("report.html")
    log = Process(recipe, run, command=command).finish()
    assert f"going on from step {STEPS} of {STEPS}" in log
    assert " train " not in log
    assert_same(run, whole)


def test_stopped_in_an_epochs_last_step_it_ends_with_the_commits_of_a_run_that_was_not(
    light_recipe: Path, light_run: Bucket, tmp_path: Path
) -> None:
    run = Folder(str(tmp_path / "run"))

    def position(bucket: Bucket, step: int) -> Position:
        return replace(read_commit(bucket, step).position, recipe={})  # which tells where the run lies

    for step in (20, STEPS):
        process = Process(light_recipe, run, command=light(stop_at=step))
        assert process.process.wait(within(300)) == 143, process.log.read_text()
        assert position(run, step).validated == step - 10
    Process(light_recipe, run, command=light()).finish()
    assert_same(run, light_run)
    assert position(run, STEPS) == position(light_run, STEPS)
    best = position(run, STEPS).best_step
    pulled = pull(run, Folder(str(tmp_path / "pulled")), "best")
    assert pulled.step == pulled.best == position(run, best).best_step == best


@pytest.mark.parametrize("change", ["another", "flipped"])
def test_a_shard_that_changes_during_the_run_ends_it_with_a_line_that_names_it(
    light_recipe: Path, small_data: Bucket, tmp_path: Path, change: str
) -> None:
    data = Folder(str(shutil.copytree(small_data.uri, tmp_path / "data")))
    run, names = Folder(str(tmp_path / "run")), [shard.name for shard in load_manifest(data).split("train")]
    process = Process(light_recipe, run, "--data.uri", data.uri, command=light(seconds=0.2))
    process.wait_until(past(2))
    contents = [data.read(name) for name in names]
    changed = [content[:-9] + bytes([content[-9] ^ 4]) + content[-8:] for content in contents]
    for name, content in zip(names, changed if change == "flipped" else contents[::-1], strict=True):
        data.write(name, content)
    assert process.process.wait(within(120)) == 1
    told = process.log.read_text().splitlines()[-1]
    assert re.match(rf"catdog: failed: {data.uri}/train-\S+\.tfrecord: was written anew while", told)


def test_started_again_when_all_is_done_it_only_evaluates(light_recipe: Path, light_run: Bucket) -> None:
    before = lines(light_run)
    log = Process(light_recipe, light_run, command=light()).finish()
    assert " train " not in log and "first step" not in log
    assert re.search(r"committed, exported and evaluated in \d+\.\d s\n", log)
    assert lines(light_run) == before


def test_the_model_of_a_run_opens_with_plain_keras_and_answers_as_evaluated(light_run: Bucket) -> None:
    program = f"""
import sys, numpy, keras
model = keras.models.load_model({f"{light_run.uri}/model.keras"!r})
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
    light_recipe: Path, light_run: Bucket, settings: list[str], named: str
) -> None:
    process = Process(light_recipe, light_run, *settings)
    assert process.process.wait(within(120)) == 2
    error = process.log.read_text().strip().splitlines()
    assert len(error) == 1
    assert named in error[0]


def test_metrics_hold_each_step_once(light_run: Bucket) -> None:
    steps = [(step, split) for step, _, split, _, _ in lines(light_run)]
    assert steps == [
        entry
        for step in range(2, STEPS + 1, 2)
        for entry in ([(step, "train"), (step, "val")] if step % 10 == 0 else [(step, "train")])
    ]


def test_the_newest_checkpoints_and_what_was_best_at_each_are_kept(light_run: Bucket) -> None:
    losses = {step: loss for step, _, split, loss, _ in lines(light_run) if split == "val"}
    best = {end: min((s for s in losses if s <= end), key=lambda step: (losses[step], step)) for end in (39, 40)}
    steps = Checkpoints(light_run, keep=2).steps()
    assert steps == sorted({39, 40, *best.values()})
    assert np.isfinite(list(losses.values())).all()


def test_a_pulled_run_goes_on_from_its_checkpoint_and_ends_the_same(
    light_recipe: Path, light_run: Bucket, tmp_path: Path
) -> None:
    folder = Folder(str(tmp_path / "pulled"))
    pull(light_run, folder, str(STEPS - 1))
    log = Process(light_recipe, folder, command=light()).finish()
    assert f"going on from step {STEPS - 1} of {STEPS}" in log
    assert_same(folder, light_run)
