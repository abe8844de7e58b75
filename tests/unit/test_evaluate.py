"""What an evaluation of a run's model writes and tells."""

import html
import json
from dataclasses import replace

import numpy as np
import pytest
from brightness import LINE, rows
from pictures import damaged

from catdog.data.example import decode_example, encode_example
from catdog.data.shards import load_manifest
from catdog.data.tfrecord import checked_payload, record_index, write_records
from catdog.errors import CallerError, RunError
from catdog.evaluation.evaluate import evaluate
from catdog.evaluation.metrics import summarize
from catdog.recipe import Cache
from catdog.storage import Folder, crc32c, open_bucket


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
    for plot in ("accuracy", "confusion", "loss", "mistakes", "precision_recall", "reliability", "roc"):
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
    with pytest.raises(CallerError, match="run `catdog train` again to finish"):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())


def test_an_empty_split_is_refused(world):
    manifest = json.loads(world.data.read("manifest.json"))
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] != "test"]
    world.data.write("manifest.json", json.dumps(manifest).encode())
    with pytest.raises(CallerError, match="test split is empty"):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image/filename": None}, "image/filename is missing"),
        ({"image/filename": 7}, "image/filename is missing or of the wrong type"),
        ({"image/encoded": b"no JPEG"}, "holds no picture as it should"),
        ({"image/encoded": b""}, "holds no picture as it should"),
        ({"image/height": None}, "holds no picture as it should"),
    ],
)
def test_a_record_that_is_none_is_named(world, change, told):
    manifest = load_manifest(world.data)
    shard = manifest.split("test")[-1]
    path = world.data.local(shard.name)
    with open(path, "rb") as file:
        payloads = [checked_payload(file, *span) for span in record_index(file).tolist()]
    features = decode_example(payloads[2]) | change
    payloads[2] = encode_example({name: value for name, value in features.items() if value is not None})
    write_records(path, payloads)
    made = replace(shard, bytes=path.stat().st_size, crc32c=crc32c(path))
    shards = tuple(made if each is shard else each for each in manifest.shards)
    with pytest.raises(RunError, match=rf"{shard.name} record 2: .*{told}") as caught:
        evaluate(world.run, world.data, replace(manifest, shards=shards), Cache())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_damaged_shard_is_named(world, damage):
    name = load_manifest(world.data).split("test")[0].name
    world.data.write(name, damaged(world.data.read(name))) if damage == "changed" else world.data.delete(name)
    with pytest.raises(RunError, match=name):
        evaluate(world.run, world.data, load_manifest(world.data), Cache())
