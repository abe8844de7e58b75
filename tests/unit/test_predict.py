"""What evaluating and predicting with a run's model write and tell, on a model that goes by brightness alone."""

import csv
import html
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from pictures import damaged
from PIL import Image

from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.errors import CallerError, RunError
from catdog.evaluation.evaluate import evaluate
from catdog.evaluation.metrics import summarize
from catdog.evaluation.predict import predict
from catdog.evaluation.trained_model import BATCH
from catdog.recipe import Cache, Data, Recipe, to_toml
from catdog.storage import Bucket, Folder, open_bucket

PLOTS = ("accuracy", "confusion", "loss", "mistakes", "precision_recall", "reliability", "roc")
LINE = '{"step": 10, "phase": "frozen", "epoch": 1, "split": "val", "loss": 0.4, "accuracy": 0.8, "time": 5.0}\n'


def draw(path: Path, seed: int, *, bright: bool, size: tuple[int, int] = (300, 280)) -> Path:
    """Blurred noise that is bright or dark as a whole."""
    noise = np.random.default_rng(seed).integers(0, 60, (9, 9, 3), np.uint8) + (170 if bright else 30)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def save_model(path: Path, slope: float) -> None:
    """A model that calls bright pictures dogs."""
    model = keras.Sequential(
        [
            keras.Input((96, 96, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.layers[-1].set_weights([np.full((3, 1), slope, np.float32), np.array([-1.5 * slope], np.float32)])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)


@dataclass(frozen=True)
class World:
    run: Bucket
    data: Bucket
    photos: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> World:
    """Class folders of 24 cats and 24 dogs, of which every fourth has the other class's brightness, and a run."""
    root = tmp_path_factory.mktemp("world")
    for index in range(48):
        label, odd = ("cat", "dog")[index % 2], index // 2 % 4 == 0
        bright = (label == "dog") != odd
        name = f"{'bright' if bright else 'dark'} & <{index:02d}>.{'png' if index % 3 else 'jpg'}"
        draw(root / "photos" / label / name, index, bright=bright)
    data, run = open_bucket(str(root / "data")), open_bucket(str(root / "run"))
    prepare(f"folder:{root / 'photos'}", data, shards=2, val=0.25, test=0.5)
    save_model(run.local("model.keras"), slope=2.0)
    run.write("recipe.toml", to_toml(Recipe(data=Data(side=96))).encode())
    run.write("metrics.jsonl", LINE.encode())
    return World(run, data, root / "photos")


@pytest.fixture
def world(made, tmp_path) -> World:
    """A copy that the test may spoil."""
    shutil.copytree(made.run.uri, tmp_path / "run")
    shutil.copytree(made.data.uri, tmp_path / "data")
    return World(open_bucket(str(tmp_path / "run")), open_bucket(str(tmp_path / "data")), made.photos)


def rows(run: Bucket, split: str = "test") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.read(f"evaluation/{split}/predictions.csv").decode())))


def test_each_example_of_the_split_is_predicted_once_under_its_name(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    labels = "".join(shard.labels for shard in load_manifest(world.data).split("test"))
    got = rows(world.run)
    assert len({row["filename"] for row in got}) == len(got) == len(labels) == 24
    assert [row["label"] for row in got] == [("cat", "dog")[int(digit)] for digit in labels]
    for row in got:
        assert row["filename"].startswith(f"{row['label']}/")
        assert row["predicted"] == ("dog" if "bright" in row["filename"] else "cat")
        assert row["correct"] == str(row["predicted"] == row["label"]).lower()
        assert (float(row["probability_dog"]) > 0.5) == (row["predicted"] == "dog")


def test_metrics_are_those_of_the_predictions_and_are_what_is_returned(world):
    returned = evaluate(world.run, world.data, load_manifest(world.data), Cache())
    written = json.loads(world.run.read("evaluation/test/metrics.json"))
    assert written == returned
    got = rows(world.run)
    labels = np.array([row["label"] == "dog" for row in got], np.int64)
    expected = summarize(labels, np.array([float(row["probability_dog"]) for row in got]))
    assert written["confusion"] == expected["confusion"]
    assert written["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    assert written["data"]["digest"] == load_manifest(world.data).digest


def test_report_shows_every_mistake_and_plots_lie_beside_the_metrics(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    report = world.run.read("report.html").decode()
    wrong = [row["filename"] for row in rows(world.run) if row["correct"] == "false"]
    assert 0 < len(wrong) <= 12
    for name in wrong:
        assert html.escape(name) in report
    for plot in PLOTS:
        assert world.run.read(f"evaluation/test/{plot}.png").startswith(b"\x89PNG")


def test_the_surest_mistakes_come_first(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    report = world.run.read("report.html").decode()
    wrong = [row for row in rows(world.run) if row["correct"] == "false"]
    sure = sorted(wrong, key=lambda row: -abs(float(row["probability_dog"]) - 0.5))
    assert len({row["probability_dog"] for row in wrong}) == len(wrong) > 2
    places = [report.index(f'<div class="of">{html.escape(row["filename"])}') for row in sure]
    assert places == sorted(places)


def test_another_split_has_its_own_folder_and_leaves_the_report(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache(), "val")
    assert len(rows(world.run, "val")) == 12
    assert not world.run.exists("report.html")
    assert world.run.list("evaluation/test") == []


@pytest.mark.parametrize("content", [None, LINE + LINE[:40], ""], ids=["missing", "cut", "empty"])
def test_metrics_of_the_training_may_be_missing_or_cut(world, content):
    world.run.delete("metrics.jsonl")
    if content is not None:
        world.run.write("metrics.jsonl", content.encode())
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    assert ("no metrics.jsonl" in world.run.read("report.html").decode()) == (not content)


def test_an_evaluation_that_ends_half_way_leaves_neither_metrics_nor_report(world):
    class Full(Folder):
        def write(self, name: str, content: bytes) -> None:
            if name.endswith(".csv"):
                raise OSError("no space left")
            super().write(name, content)

    with pytest.raises(OSError, match="no space"):
        evaluate(Full(world.run.uri), world.data, load_manifest(world.data), Cache())
    assert not world.run.exists("evaluation/test/metrics.json")
    assert not world.run.exists("report.html")


def test_a_caller_is_told_what_is_missing(world, tmp_path):
    with pytest.raises(CallerError, match="no run here"):
        evaluate(open_bucket(str(tmp_path / "nothing")), world.data, load_manifest(world.data), Cache())
    with pytest.raises(CallerError, match=r"'tset'.*train, val, test"):
        evaluate(world.run, world.data, load_manifest(world.data), Cache(), "tset")
    with pytest.raises(CallerError, match="nothing"):
        load_manifest(open_bucket(str(tmp_path / "nothing")))
    world.run.delete("model.keras")
    for ask in (
        lambda: evaluate(world.run, world.data, load_manifest(world.data), Cache()),
        lambda: predict(world.run, [world.photos]),
    ):
        with pytest.raises(CallerError, match="run `catdog train` again to finish"):
            ask()


def test_an_empty_split_is_refused(world):
    manifest = json.loads(world.data.read("manifest.json"))
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] != "test"]
    world.data.write("manifest.json", json.dumps(manifest).encode())
    with pytest.raises(CallerError, match="test split is empty"):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_damaged_shard_is_named(world, damage):
    name = load_manifest(world.data).split("test")[0].name
    world.data.write(name, damaged(world.data.read(name))) if damage == "changed" else world.data.delete(name)
    with pytest.raises(RunError, match=name):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())


@pytest.mark.parametrize(
    "damage", [damaged, lambda whole: whole[: len(whole) // 2], lambda _: b""], ids=["changed", "cut", "empty"]
)
def test_a_model_that_cannot_be_opened_is_named_in_one_line(world, damage):
    world.run.write("model.keras", damage(world.run.read("model.keras")))
    with pytest.raises(RunError, match=r"model\.keras: can't be opened: ") as caught:
        evaluate(world.run, world.data, load_manifest(world.data), Cache())
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_probabilities_is_told(world):
    save_model(world.run.local("model.keras"), slope=float("nan"))
    with pytest.raises(RunError, match="no probabilities"):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())


def test_a_file_gets_the_probability_that_evaluation_gave_it(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    got = {p.path.relative_to(world.photos).as_posix(): p for p in predict(world.run, [world.photos])}
    assert len(got) == 48
    for row in rows(world.run):
        prediction = got[row["filename"]]
        dog = float(row["probability_dog"])
        assert prediction.predicted == row["predicted"]
        assert prediction.probability == pytest.approx(max(dog, 1 - dog), abs=2e-6)


def test_unreadable_files_are_told_in_their_place_and_stop_nothing(world, tmp_path):
    folder = tmp_path / "mixed"
    good = [draw(folder / name, 7, bright=True) for name in ("a.png", "sub/f.png", "z.png")]
    (folder / "b.txt").write_text("not a picture")
    (folder / "c.jpg").write_bytes(b"")
    (folder / "d.png").write_bytes(good[0].read_bytes()[:200])
    os.mkfifo(folder / "e.png")
    (folder / "empty").mkdir()
    got = list(predict(world.run, [folder, tmp_path / "missing.jpg", good[2]]))
    names = ["a.png", "b.txt", "c.jpg", "d.png", "e.png", "empty", "sub/f.png", "z.png", "../missing.jpg", "z.png"]
    assert [os.path.relpath(p.path, folder) for p in got] == names
    for prediction in got:
        assert (prediction.predicted == "dog") == (prediction.error is None) == (prediction.path in good)
        assert (prediction.probability is None) == (prediction.predicted is None)
    assert "no such file" in got[8].error
    assert "empty" in got[2].error and "empty" in got[5].error


def test_hidden_files_in_folders_are_passed_over(world, tmp_path):
    draw(tmp_path / "photos/a.png", 1, bright=False)
    (tmp_path / "photos/.DS_Store").write_bytes(b"x")
    assert [p.path.name for p in predict(world.run, [tmp_path / "photos"])] == ["a.png"]


def test_a_picture_that_lies_on_its_side_is_seen_upright(world, tmp_path):
    upright = draw(tmp_path / "upright.png", 3, bright=True, size=(400, 200))
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by a quarter to the right
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    one, other = predict(world.run, [upright, tmp_path / "turned.png"])
    assert one.probability == other.probability


def test_files_are_read_only_as_predictions_are_taken(world, tmp_path):
    first = draw(tmp_path / "many/000.png", 1, bright=False, size=(40, 40))
    for index in range(1, 2 * BATCH):
        shutil.copy(first, tmp_path / f"many/{index:03d}.png")
    predictions = predict(world.run, [tmp_path / "many"])
    assert next(predictions).predicted == "cat"
    (tmp_path / f"many/{2 * BATCH - 1:03d}.png").write_text("changed meanwhile")
    rest = list(predictions)
    assert [p.path.name for p in rest] == [f"{index:03d}.png" for index in range(1, 2 * BATCH)]
    assert [p.error is None for p in rest] == [True] * (2 * BATCH - 2) + [False]


def test_a_link_back_to_its_own_folder_is_not_followed(world, tmp_path):
    draw(tmp_path / "photos/a.png", 1, bright=False)
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos")
    assert [p.path.name for p in predict(world.run, [tmp_path / "photos"])] == ["a.png"]
