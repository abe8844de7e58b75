import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catdog.data.shards import Manifest, Shard, load_manifest
from catdog.errors import CallerError
from catdog.storage import open_bucket


def manifest() -> Manifest:
    shards = (
        Shard("train-00000-of-00002.tfrecord", "train", 100, "0123abcd", "0110"),
        Shard("train-00001-of-00002.tfrecord", "train", 90, "0123abce", "001"),
        Shard("test-00000-of-00001.tfrecord", "test", 50, "ffffffff", "01"),
    )
    return Manifest("drawn", {"side": 256, "keep": {"cat": 0.5}}, shards)


def test_a_manifest_written_is_the_manifest_loaded(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path))
    bucket.write("manifest.json", manifest().to_json())
    assert load_manifest(bucket) == manifest()
    assert load_manifest(bucket).digest == manifest().digest


def test_a_manifest_counts_its_classes() -> None:
    assert manifest().per_class("train") == {"cat": 4, "dog": 3}
    assert manifest().per_class("val") == {"cat": 0, "dog": 0}
    assert json.loads(manifest().to_json())["splits"]["test"] == {"examples": 2, "per_class": {"cat": 1, "dog": 1}}


def test_the_digest_follows_what_is_held_and_not_where_it_came_from() -> None:
    base = manifest()
    assert Manifest("folder:elsewhere", {}, base.shards).digest == base.digest
    assert Manifest(base.source, base.options, base.shards[:2]).digest != base.digest


def test_splits_of_the_sources_own_are_in_the_manifest_only_where_there_are_some(tmp_path: Path) -> None:
    bucket, own = open_bucket(str(tmp_path)), replace(manifest(), own_splits=("train", "test"))
    bucket.write("manifest.json", own.to_json())
    assert load_manifest(bucket) == own and own.digest == manifest().digest
    assert b"own_splits" not in manifest().to_json()


@pytest.mark.parametrize(
    ("val", "test", "told"),
    [
        ("0011", "01", []),
        ("0000", "01", ["the val split holds no dog"]),
        ("01", "1", ["the test split holds no cat"]),
        ("0", "", ["the val split holds no dog", "the test split holds no cat and no dog"]),
    ],
)
def test_a_held_out_split_that_lacks_a_class_is_told(val: str, test: str, told: list[str]) -> None:
    labels = {"train": "0011", "val": val, "test": test}
    shards = tuple(
        Shard(f"{split}-00000-of-00001.tfrecord", split, 1, "0123abcd", digits)
        for split, digits in labels.items()
        if digits
    )
    lines = Manifest("folder:x", {"val": 0.1, "test": 0.1}, shards).one_sided()
    assert [line.partition(":")[0] for line in lines] == told


def test_a_split_that_was_not_asked_for_lacks_nothing() -> None:
    shards = (Shard("train-00000-of-00001.tfrecord", "train", 1, "0123abcd", "01"),)
    assert Manifest("folder:x", {"val": 0.0, "test": 0.0}, shards).one_sided() == []


def test_a_split_of_a_persons_own_that_lacks_a_class_is_to_be_mended_in_its_folder() -> None:
    shards = (
        Shard("train-00000-of-00001.tfrecord", "train", 1, "0123abcd", "01"),
        Shard("test-00000-of-00001.tfrecord", "test", 1, "0123abcd", "00"),
    )
    [line] = Manifest("folder:x", {"val": 0.0, "test": 0.1}, shards, ("train", "test")).one_sided()
    assert line.endswith("add pictures to its folder")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(own_splits="test"), "own_splits"),
        (lambda m: m.update(own_splits=["validation"]), "own_splits"),
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m.update(classes=["dog", "cat"]), "classes"),
        (lambda m: m.pop("shards"), "shards"),
        (lambda m: m["shards"][0].pop("labels"), "labels"),
        (lambda m: m["shards"][0].update(name="../../elsewhere"), "elsewhere"),
        (lambda m: m["shards"][0].update(split="test"), "train-00000"),
        (lambda m: m["shards"][0].update(labels="012"), "label"),
        (lambda m: m["shards"][0].update(labels=[0, 1]), "not a manifest"),
        (lambda m: m["shards"][0].update(bytes=100.0), r"shards\.0\.bytes"),
        (lambda m: m["shards"].append(5), r"shards\.\d\.name"),
        (lambda m: m.update(shards={}), "shards is missing or of the wrong type"),
        (lambda m: m.update(format="1"), "format"),
        (lambda m: m.update(source=None), "source"),
        (lambda m: m.update(options=[]), "options"),
        (lambda m: m.update(classes="cat"), "classes"),
        (lambda m: m["shards"][0].update(crc32c=""), "checksum"),
        (lambda m: m["shards"][0].update(bytes=-1), "bytes -1: must be at least 0"),
        (lambda m: m["shards"][0].update(bytes=2**70), r"shards\.0\.bytes"),
        (lambda m: m["shards"][0].update(name="train-\u0660\u0660000-of-00001.tfrecord"), "no name for a shard"),
        (lambda m: m["options"].update(val=float("nan")), r"options\.val: must be a finite number"),
        (lambda m: m["options"].update(seed=[float("inf")]), r"options\.seed\.0: must be a finite number"),
    ],
)
def test_what_is_no_manifest_is_told_in_one_line(tmp_path: Path, change: Any, told: str) -> None:
    content = json.loads(manifest().to_json())
    change(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CallerError, match=told) as caught:
        load_manifest(open_bucket(str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "\xff\xfe"])
def test_what_is_no_json_object_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CallerError, match="not a manifest") as caught:
        load_manifest(open_bucket(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_one_without_a_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="no such folder"):
        load_manifest(open_bucket(str(tmp_path / "nowhere")))
    with pytest.raises(CallerError, match=r"no manifest\.json"):
        load_manifest(open_bucket(str(tmp_path)))


def test_a_data_set_of_before_there_were_lists_of_near_duplicates_claims_none(tmp_path: Path) -> None:
    bucket, content = open_bucket(str(tmp_path)), json.loads(manifest().to_json())
    assert content.pop("lists") == ["skipped.csv", "near_duplicates.csv"]
    bucket.write("manifest.json", json.dumps(content).encode())
    assert load_manifest(bucket).files == manifest().files - {"near_duplicates.csv"}
