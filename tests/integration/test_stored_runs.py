"""Runs whose phases take stored outputs of what they have frozen."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog.recipe import Recipe, load_recipe, override
from catdog.storage import Bucket, open_bucket
from catdog.training.checkpoint import Checkpoints
from catdog.training.trainer import train
from tests.integration import small_backbone
from tests.integration.processes import Process, assert_same, light, lines, past


def changed(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    return override(recipe, [(name, json.dumps(value)) for name, value in settings.items()])


@pytest.fixture
def recipe(light_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Both phases store: all but the head is frozen in the one, all but the last of three blocks in the other."""
    monkeypatch.setattr("catdog.model._backbone", partial(small_backbone.backbone, blocks=3))
    places = {"run.uri": str(tmp_path / "run"), "cache.folder": str(tmp_path / "cache")}
    return changed(load_recipe(light_recipe), {"phases.0.views": 1, "phases.1.views": 2} | places)


def ended(recipe: Recipe) -> dict[str, np.ndarray]:
    """The state that the run ends with."""
    train(recipe)
    checkpoints = Checkpoints(open_bucket(recipe.run.uri), 1)
    return checkpoints.restore(checkpoints.steps()[-1])[1]


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_ends_the_same_with_outputs_stored_and_computed_for_each_step(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = ended(recipe)
    files = sorted((tmp_path / "cache").glob("*.tfrecord"))
    # Of four shards one view for the one phase and two for the other, and of the val split's one shard the whole.
    assert len(files) == 4 * (1 + 2) + 2
    capsys.readouterr()
    without = {"run.uri": str(tmp_path / "without"), "cache.max_bytes": 1000, "cache.folder": str(tmp_path / "other")}
    assert same(ended(changed(recipe, without)), stored)
    assert "frozen: the stored outputs of pool, " in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*.tfrecord"))


def test_a_run_that_is_killed_in_either_phase_ends_the_same_with_and_without_its_files(
    light_recipe: Path, tmp_path: Path
) -> None:
    words = ["--phases.0.views", "1", "--phases.1.views", "2", "--phases.1.unfreeze", "none", "--cache.folder"]
    whole = open_bucket(str(tmp_path / "whole"))
    Process(light_recipe, whole, *words, str(tmp_path / "cache"), command=light()).finish()
    run, folder = open_bucket(str(tmp_path / "run")), tmp_path / "cache2"
    for step, lost in ((14, False), (27, True)):
        process = Process(light_recipe, run, *words, str(folder), command=light(seconds=0.05))
        process.wait_until(past(step))
        process.process.kill()
        process.process.wait()
        if lost:
            shutil.rmtree(folder)
    Process(light_recipe, run, *words, str(folder), command=light()).finish()
    assert_same(run, whole)


SETTINGS = {
    "average and focal loss": {"optimizer.ema": 0.9, "loss.balance": "focal"},
    "class weights in parts": {"loss.balance": "class_weight", "optimizer.accumulate": 2},
    "oversampled": {"loss.balance": "oversample"},
    "float16": {"run.precision": "mixed_float16"},
    # Its eight bits make two runs of any kind part soon, unless their steps are small.
    "bfloat16": {
        "run.precision": "mixed_bfloat16",
        "phases.0.learning_rate": 1e-3,
        "phases.1.learning_rate": 1e-4,
    },
    "two replicas": {"run.strategy": "cpu:2"},
}


@pytest.mark.parametrize("settings", [pytest.param(s, id=name) for name, s in SETTINGS.items()])
@pytest.mark.slow
def test_stored_outputs_train_as_pictures_do(small_recipe: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """In epochs 0 and 1 two views are what is seen without them; stored in half precision, they differ in the last digits."""
    once = {"phases.0.epochs": 1, "phases.1.epochs": 1, "cache.folder": str(tmp_path / "cache")} | settings

    def state(views: int) -> Bucket:
        run = open_bucket(str(tmp_path / f"views-{views}"))
        words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in once.items()]
        Process(small_recipe, run, *words, f"--phases.0.views={views}", f"--phases.1.views={views}").finish()
        return run

    pictures, stored = lines(state(0)), lines(state(2))
    assert [line[:3] for line in stored] == [line[:3] for line in pictures]
    # Another view moves a loss by a tenth; Adam makes a step of a gradient that is nothing but last digits.
    np.testing.assert_allclose([line[3] for line in stored], [line[3] for line in pictures], rtol=0.03)
