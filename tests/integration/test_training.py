"""The trainer on a small data set, in this process."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from catdog import recipe as recipes
from catdog.data.prepare import prepare
from catdog.errors import CallerError, RunError
from catdog.recipe import Recipe
from catdog.storage import Bucket
from catdog.training.checkpoint import Checkpoints
from catdog.training.trainer import train


@pytest.fixture
def recipe(small_recipe: Path, tmp_path: Path) -> Recipe:
    return changed(recipes.load(small_recipe), {"run.uri": str(tmp_path / "run")})


def changed(recipe: Recipe, settings: dict[str, object]) -> Recipe:
    return recipes.override(recipe, [(name, json.dumps(value)) for name, value in settings.items()])


def losses(run: str, split: str = "val") -> list[float]:
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == split]


def newest(run: str) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(Bucket(run), keep=2)
    return checkpoints.restore(max(checkpoints.steps()))[1]


def test_two_replicas_end_at_the_loss_of_one(recipe: Recipe) -> None:
    two = changed(recipe, {"run.strategy": "cpu:2", "run.uri": f"{recipe.run.uri}-2"})
    train(recipe)
    train(two)
    assert losses(two.run.uri) == pytest.approx(losses(recipe.run.uri), abs=1e-3)
    assert losses(two.run.uri, "train") == pytest.approx(losses(recipe.run.uri, "train"), abs=1e-3)


def test_a_run_begun_on_one_replica_goes_on_with_two(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = changed(recipe, {"run.uri": f"{recipe.run.uri}-alone"})
    train(alone)
    with monkeypatch.context() as patch:
        patch.setattr("catdog.training.trainer._export", lambda *_: pytest.fail("is stopped before"))
        patch.setattr("catdog.training.trainer._due", due_until(14))
        with pytest.raises(Halted):
            train(recipe)
    train(changed(recipe, {"run.strategy": "cpu:2"}))
    assert losses(recipe.run.uri) == pytest.approx(losses(alone.run.uri), abs=1e-3)


class Halted(Exception):
    pass


def due_until(last: int):  # type: ignore[no-untyped-def]
    def due(recipe: Recipe, step: int, saved_at: float) -> bool:
        if step > last:
            raise Halted
        return True

    return due


def test_a_loss_that_is_not_finite_ends_the_run_with_its_steps_and_leaves_the_last_checkpoint(recipe: Recipe) -> None:
    wild = changed(recipe, {"phases.0.learning_rate": 1e30, "phases.0.warmup": 0.0, "checkpoint.every_steps": 1})
    with pytest.raises(RunError, match=r"not finite at step \d+"):
        train(wild)
    assert all(np.isfinite(array).all() for array in newest(wild.run.uri).values())


def test_another_data_set_is_refused(recipe: Recipe, small_data: Bucket, tmp_path: Path) -> None:
    short = changed(recipe, {"phases.0.epochs": 1, "phases.1.epochs": 1})
    train(short)
    other = Bucket(str(tmp_path / "other"))
    manifest = json.loads(small_data.read("manifest.json"))
    for name in small_data.list():
        other.write(name, small_data.read(name))
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] != "test"]
    other.write("manifest.json", json.dumps(manifest).encode())
    with pytest.raises(CallerError, match="manifest"):
        train(changed(short, {"data.uri": other.uri}))


def test_training_from_scratch_updates_batch_norm_and_lowers_the_loss(recipe: Recipe) -> None:
    scratch = changed(recipe, {"model.weights": "none", "phases.1.unfreeze": "all", "phases.0.unfreeze": "all"})
    scratch = changed(scratch, {"phases.0.epochs": 1, "phases.1.epochs": 1, "run.strategy": "cpu:2"})
    train(scratch)
    curve = losses(scratch.run.uri, "train")
    assert np.mean(curve[-3:]) < np.mean(curve[:3])


def test_the_options_of_the_recipe_work_together(recipe: Recipe) -> None:
    settings: dict[str, object] = {
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 0.01,
        "optimizer.ema": 0.9,
        "optimizer.accumulate": 2,
        "loss.label_smoothing": 0.1,
        "augment.mixup": 0.2,
        "run.precision": "mixed_float16",
        "phases.0.epochs": 1,
        "phases.1.epochs": 1,
    }
    result = train(changed(recipe, settings))
    arrays = newest(recipe.run.uri)
    assert {"loss_scale", "average/0000"} <= arrays.keys()
    assert 0.0 <= result.metrics["accuracy"] <= 1.0
    assert result.report.is_file()


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory, small_data: Bucket) -> Bucket:
    """The small data set's pictures with an eighth of its cats, and a larger test split to measure recall on."""
    source = json.loads(small_data.read("manifest.json"))["source"]
    bucket = Bucket(str(tmp_path_factory.mktemp("thinned")))
    prepare(source, bucket, side=64, shards=4, val=0.1, test=0.4, keep={"cat": 0.125})
    return bucket


def cat_recall(run: str) -> float:
    with open(Path(run) / "evaluation/test/predictions.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "cat"]
    return sum(row["predicted"] == "cat" for row in rows) / len(rows)


def test_each_way_to_balance_raises_the_recall_of_the_rarer_class(recipe: Recipe, thinned: Bucket) -> None:
    recalls = {}
    for balance in ("none", "class_weight", "oversample", "focal"):
        uri = f"{recipe.run.uri}-{balance}"
        settings = {"data.uri": thinned.uri, "run.uri": uri, "loss.balance": balance, "data.side": 64}
        settings |= {"phases.0.epochs": 8, "phases.1.epochs": 1, "phases.1.unfreeze": "none"}
        train(changed(recipe, settings))
        recalls[balance] = cat_recall(uri)
    assert all(recalls[balance] > recalls["none"] for balance in ("class_weight", "oversample", "focal")), recalls
