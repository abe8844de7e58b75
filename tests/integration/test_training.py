"""The trainer on a small data set, in this process."""

import csv
import json
import os
import shutil
import signal
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tomli_w
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from catdog.command.printing import print_profile
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.errors import CallerError, FinalError, RunError, Stopped
from catdog.recipe import Recipe, load_recipe, override
from catdog.storage import Bucket, open_bucket
from catdog.training import phase
from catdog.training.checkpoint import Checkpoints
from catdog.training.profiler import PhaseProfile
from catdog.training.progress import Progress
from catdog.training.start import started
from catdog.training.state import exported_weights
from catdog.training.trainer import train
from tests.integration.processes import assert_same


@pytest.fixture
def recipe(light_recipe: Path, light_backbone: None, tmp_path: Path) -> Recipe:
    return changed(load_recipe(light_recipe), {"run.uri": str(tmp_path / "run")})


@pytest.fixture
def full(small_recipe: Path, tmp_path: Path) -> Recipe:
    """The recipe of EfficientNetB0."""
    return changed(load_recipe(small_recipe), {"run.uri": str(tmp_path / "run")})


def changed(recipe: Recipe, settings: dict[str, object]) -> Recipe:
    return override(recipe, [(name, json.dumps(value)) for name, value in settings.items()])


def lines(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def losses(run: str, split: str = "val") -> list[float]:
    return [line["loss"] for line in lines(run) if line["split"] == split]


def newest(run: str) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(open_bucket(run), keep=2)
    return checkpoints.restore(max(checkpoints.steps()))[1]


@pytest.fixture
def alone(light_run: Bucket) -> str:
    """A run of the recipe on one replica from its start to its end."""
    return light_run.uri


@pytest.mark.parametrize("backbone", ["light", pytest.param("EfficientNetB0", marks=pytest.mark.slow)])
def test_two_replicas_end_at_the_loss_of_one(backbone: str, request: pytest.FixtureRequest) -> None:
    names = ("recipe", "light_run") if backbone == "light" else ("full", "undisturbed")
    recipe, one = map(request.getfixturevalue, names)
    train(changed(recipe, {"run.strategy": "cpu:2"}))
    assert losses(recipe.run.uri) == pytest.approx(losses(one.uri), abs=1e-3)
    assert losses(recipe.run.uri, "train") == pytest.approx(losses(one.uri, "train"), abs=1e-3)


def test_a_run_begun_on_one_replica_goes_on_with_two(
    recipe: Recipe, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stop_at_14(progress: Progress, step: int) -> bool:
        if step == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    with monkeypatch.context() as patch:
        patch.setattr("catdog.training.progress.Progress.save_due", stop_at_14)
        with pytest.raises(Stopped, match="step 14"):
            train(recipe)
    begun = lines(recipe.run.uri)
    assert max(line["step"] for line in begun) == 14
    train(changed(recipe, {"run.strategy": "cpu:2"}))
    assert lines(recipe.run.uri)[: len(begun)] == begun  # their clock too: they were not made again
    assert losses(recipe.run.uri) == pytest.approx(losses(alone), abs=1e-3)


def test_a_profiled_run_tells_where_its_time_went_and_ends_the_same(
    recipe: Recipe, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[PhaseProfile] = []
    began = time.perf_counter()
    train(recipe, profiled=told.extend)
    seconds = time.perf_counter() - began
    assert [(each.name, each.steps) for each in told] == [("frozen", 20), ("finetune", 20)]
    for each in told:
        assert list(each.seconds) == ["start", "data", "step", "validation", "checkpoint", "other"]
        assert all(spent >= 0 for spent in each.seconds.values())
    assert sum(spent for each in told for spent in each.seconds.values()) < seconds
    assert_same(open_bucket(recipe.run.uri), open_bucket(alone))
    traces = sorted(Path(recipe.run.uri).glob("tensorboard/plugins/profile/*/*.xplane.pb"))
    assert [trace.parent.name for trace in traces] == ["step-00000003", "step-00000023"]
    for trace in traces:
        space = xplane_pb2.XSpace.FromString(trace.read_bytes())
        named = {id: kind.name for plane in space.planes for id, kind in plane.event_metadata.items()}
        steps = [
            event
            for plane in space.planes
            for line in plane.lines
            for event in line.events
            if named.get(event.metadata_id) == "train"
        ]
        assert len(steps) == 5
    capsys.readouterr()
    print_profile(told)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["time", "spent", "frozen", "finetune"]
    assert printed[1].split() == ["steps", "20", "20"]
    assert [line.split()[0] for line in printed[2:]] == list(told[0].seconds)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_steps_and_leaves_the_last_checkpoint(
    recipe: Recipe, precision: str
) -> None:
    wild = changed(recipe, {"phases.0.learning_rate": 1e30, "phases.0.warmup": 0.0, "checkpoint.every_steps": 1})
    wild = changed(wild, {"run.precision": precision})
    with pytest.raises(RunError, match=r"not finite at step \d+"):
        train(wild)
    assert all(np.isfinite(array).all() for array in newest(wild.run.uri).values())


def test_nothing_is_committed_of_a_step_that_was_not_finite_and_of_those_after_it(recipe: Recipe) -> None:
    wild = changed(recipe, {"phases.0.learning_rate": 1e30, "phases.0.warmup": 0.0, "checkpoint.every_steps": 0})
    with pytest.raises(FinalError, match=r"not finite at step \d+:"):
        train(changed(wild, {"run.log_every": 1000}))
    assert Checkpoints(open_bucket(recipe.run.uri), 2).steps() == []


def test_a_step_for_which_there_is_no_memory_ends_the_run_with_a_line_of_what_to_lower(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = phase.make_train_step

    def too_much(*words: Any) -> Any:
        step = make(*words)
        return lambda batch, rate, number, stopping: (
            step(batch, rate, number, stopping) if number < 4 else tf.zeros([2**23, 2**23])
        )

    monkeypatch.setattr(phase, "make_train_step", too_much)
    with pytest.raises(
        RunError, match=r"^no memory is left on CPU .* 16 pictures of 32 x 32 px .* smaller data\.global_batch"
    ):
        train(changed(recipe, {"checkpoint.every_steps": 1}))
    assert Checkpoints(open_bucket(recipe.run.uri), 2).steps()[-1] == 4


def test_another_data_set_is_refused(recipe: Recipe, alone: str, small_data: Bucket, tmp_path: Path) -> None:
    other = open_bucket(str(tmp_path / "other"))
    prepare(load_manifest(small_data).source, other, PrepareOptions(side=64, shards=4, seed=1))
    with pytest.raises(CallerError, match="manifest"):
        train(changed(recipe, {"data.uri": other.uri, "run.uri": alone}))


def everything(folder: str) -> dict[str, bytes]:
    """Every file in a folder but the lease, which tells of the last that looked."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name not in ("lease.json", ".lock")}


def refused(recipe: Recipe, told: str) -> None:
    """Training is refused in one line, and the run's folder is as it was."""
    before = everything(recipe.run.uri)
    with pytest.raises(CallerError, match=told) as caught:
        train(recipe)
    assert "\n" not in str(caught.value)
    assert everything(recipe.run.uri) == before


def test_a_finished_run_without_its_checkpoints_is_not_written_over(recipe: Recipe, alone: str) -> None:
    shutil.copytree(alone, recipe.run.uri)
    shutil.rmtree(Path(recipe.run.uri) / "checkpoints")
    refused(changed(recipe, {"run.seed": 7}), r"differs in run\.seed: 0 → 7: name another folder with --run")
    refused(recipe, r"holds model\.keras of a run whose checkpoints are gone.*name another folder with --run")
    (Path(recipe.run.uri) / "model.keras").unlink()
    refused(recipe, r"holds report\.html of a run whose checkpoints are gone")


def test_a_run_that_came_to_no_checkpoint_begins_again_with_its_own_recipe_alone(recipe: Recipe) -> None:
    with started(recipe):
        pass
    folder = Path(recipe.run.uri)
    (folder / "metrics.jsonl").write_text('{"step": 2}\n')  # as a kill before the first commit leaves
    (folder / "checkpoints/step-00000003").mkdir(parents=True)
    (folder / "checkpoints/step-00000003/state.npz").write_bytes(b"half")
    refused(changed(recipe, {"run.seed": 7}), r"differs in run\.seed")
    with started(recipe) as start:
        assert start.newest is None
    assert not (folder / "checkpoints/step-00000003").exists()


@pytest.mark.parametrize(
    "name",
    [
        "model.keras",
        "metrics.jsonl",
        "report.html",
        "lease.json",
        "checkpoints/step-00001000/model.pt",
        "evaluation/test/metrics.json",
        "tensorboard/events.out.tfevents.1.host",
    ],
)
def test_a_folder_of_something_else_is_refused_before_anything_is_touched(recipe: Recipe, name: str) -> None:
    path = Path(recipe.run.uri) / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    refused(recipe, f"holds {name.partition('/')[0]} but no recipe.toml that tells whose: name another folder")
    assert path.read_text() == "{}" and [*Path(recipe.run.uri).rglob("*.*")] == [path]


def test_a_recipe_that_was_written_by_hand_is_not_replaced(recipe: Recipe, light_recipe: Path) -> None:
    there = Path(recipe.run.uri) / "recipe.toml"
    there.parent.mkdir()
    shutil.copy(light_recipe, there)
    refused(recipe, "was written by hand")
    there.write_text(tomli_w.dumps(tomllib.loads(there.read_text())))  # with nothing that a program would not write
    refused(recipe, "was written by hand")


def test_a_run_does_not_lie_among_the_shards(recipe: Recipe) -> None:
    before = open_bucket(recipe.data.uri).list()
    refused(changed(recipe, {"run.uri": recipe.data.uri}), "holds a data set: name another folder")
    assert open_bucket(recipe.data.uri).list() == before


def test_weights_that_are_not_there_leave_no_run(recipe: Recipe) -> None:
    refused(changed(recipe, {"model.weights": "bundle"}), "model.weights = 'bundle': no such file")
    assert not Path(recipe.run.uri).exists()


def test_after_weights_that_do_not_fit_the_same_command_with_others_is_taken(full: Recipe, tmp_path: Path) -> None:
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(b"none")
    refused(changed(full, {"model.weights": str(broken)}), "cannot be opened")
    assert not (Path(full.run.uri) / "recipe.toml").exists()
    with started(full) as start:
        assert start.newest is None


@pytest.mark.parametrize("works", [False, True])
def test_a_run_that_is_refused_once_it_works_goes_on_as_it_is(recipe: Recipe, works: bool) -> None:
    def fail() -> None:
        with started(recipe) as start:
            if works:
                start.run.write("metrics.jsonl", b"")
            raise CallerError("refused later")

    with pytest.raises(CallerError, match="refused later"):
        fail()
    assert (Path(recipe.run.uri) / "recipe.toml").exists() == works
    with started(recipe):
        pass
    with pytest.raises(CallerError, match="refused later"):
        fail()  # of a run that another command began
    assert (Path(recipe.run.uri) / "recipe.toml").exists()


def test_a_train_split_of_one_class_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    data = open_bucket(recipe.data.uri)
    manifest = load_manifest(data)
    dogs = tuple(replace(each, labels="1" * each.examples) for each in manifest.shards)
    other = open_bucket(str(tmp_path / "data"))
    other.write("manifest.json", replace(manifest, shards=dogs).to_json())
    refused(changed(recipe, {"data.uri": other.uri}), "its train split holds no cat")


def test_a_class_missing_from_a_held_out_split_is_told_when_a_run_begins(
    recipe: Recipe, small_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_pictures / "cat", tmp_path / "photos/cat")
    (tmp_path / "photos/dog").mkdir()
    for path in sorted((small_pictures / "dog").iterdir())[:2]:
        shutil.copy(path, tmp_path / "photos/dog")
    data = open_bucket(str(tmp_path / "data"))
    prepare(f"folder:{tmp_path / 'photos'}", data, PrepareOptions(side=64, shards=4))
    capsys.readouterr()
    with started(changed(recipe, {"data.uri": data.uri})):
        pass
    told = capsys.readouterr().err
    assert "warning: the val split holds no dog: " in told and "warning: the test split holds no dog: " in told


def test_training_from_scratch_updates_batch_norm_and_lowers_the_loss(recipe: Recipe) -> None:
    scratch = replace(recipe, phases=recipe.phases[:1])
    scratch = changed(scratch, {"model.weights": "none", "phases.0.unfreeze": "all"})
    train(scratch)
    names = [weight.path for weight in keras.models.load_model(f"{scratch.run.uri}/model.keras").weights]
    mean = next(index for index, name in enumerate(names) if name.endswith("bn/moving_mean"))
    assert np.abs(newest(scratch.run.uri)[f"model/{mean:04d}"]).max() > 0
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
    checkpoints = Checkpoints(open_bucket(recipe.run.uri), keep=2)
    position, arrays = checkpoints.restore(max(checkpoints.steps()))
    assert "loss_scale" in arrays
    assert position.best_step is not None
    kept = exported_weights(checkpoints.restore(position.best_step)[1])
    model = keras.models.load_model(f"{recipe.run.uri}/model.keras")
    assert all(np.array_equal(mean, weight) for mean, weight in zip(kept, model.get_weights(), strict=True))
    assert not np.array_equal(kept[-1], checkpoints.restore(position.best_step)[1][f"model/{len(kept) - 1:04d}"])
    assert result == json.loads((Path(recipe.run.uri) / "evaluation/test/metrics.json").read_text())
    assert (Path(recipe.run.uri) / "report.html").is_file()


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory, small_data: Bucket) -> Bucket:
    """The small data set's pictures with an eighth of its cats, and a larger test split to measure recall on."""
    bucket = open_bucket(str(tmp_path_factory.mktemp("thinned")))
    options = PrepareOptions(side=64, shards=4, val=0.1, test=0.4, keep={"cat": 0.125})
    prepare(load_manifest(small_data).source, bucket, options)
    return bucket


def cat_recall(run: str) -> float:
    with open(Path(run) / "evaluation/test/predictions.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "cat"]
    return sum(row["predicted"] == "cat" for row in rows) / len(rows)


@pytest.mark.slow
def test_each_way_to_balance_raises_the_recall_of_the_rarer_class(full: Recipe, thinned: Bucket) -> None:
    recalls = {}
    for balance in ("none", "class_weight", "oversample", "focal"):
        uri = f"{full.run.uri}-{balance}"
        settings = {"data.uri": thinned.uri, "run.uri": uri, "loss.balance": balance, "data.side": 64}
        settings |= {"phases.0.epochs": 8, "phases.1.epochs": 1, "phases.1.unfreeze": "none"}
        train(changed(full, settings))
        recalls[balance] = cat_recall(uri)
    assert all(recalls[balance] > recalls["none"] for balance in ("class_weight", "oversample", "focal")), recalls


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"phases.1.unfreeze": 50}, "16 blocks"),
        ({"optimizer.accumulate": 3}, "optimizer.accumulate = 3"),
        ({"model.weights": "none", "run.precision": "mixed_float16"}, "BatchNorm"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    full: Recipe, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(CallerError, match=told):
        train(changed(full, settings))
    assert not (Path(full.run.uri) / "checkpoints").exists()


def test_a_damaged_shard_is_named_before_the_first_step(recipe: Recipe, small_data: Bucket, tmp_path: Path) -> None:
    copy = open_bucket(str(tmp_path / "copy"))
    for name in small_data.list():
        copy.write(name, small_data.read(name))
    content = bytearray(copy.read("train-00002-of-00004.tfrecord"))
    content[len(content) // 2] ^= 1
    copy.write("train-00002-of-00004.tfrecord", bytes(content))
    with pytest.raises(RunError, match="train-00002-of-00004"):
        train(changed(recipe, {"data.uri": copy.uri}))
