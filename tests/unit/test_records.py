"""The records of a split, read by their example."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from catdog.data.cache import open_cache
from catdog.data.example import encode_example
from catdog.data.records import Records
from catdog.data.shards import Shard
from catdog.data.tfrecord import write_records
from catdog.errors import RunError
from catdog.recipe import Cache
from catdog.storage import open_bucket

SIZES = (3, 4, 0, 2)
LABELS = ("011", "0101", "", "01")
PAYLOADS = [
    encode_example({"image/encoded": f"record {example}".encode() * (example + 1), "image/class/label": int(label)})
    for example, label in enumerate("".join(LABELS))
]


def shard(name: str, labels: str) -> Shard:
    return Shard(name, "train", 0, "00000000", labels)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    payloads, shards = iter(PAYLOADS), []
    for number, size in enumerate(SIZES):
        write_records(tmp_path / f"train-{number}", itertools.islice(payloads, size))
        shards.append(shard(f"train-{number}", LABELS[number]))
    with open_cache(open_bucket(str(tmp_path)), {}, Cache()) as cache:
        yield Records(shards, cache)


def test_an_example_is_the_record_at_its_place_over_all_shards(records: Records) -> None:
    assert records.sizes == SIZES
    with records.reading() as reader:
        assert [reader.read(example) for example in range(len(PAYLOADS))] == PAYLOADS
        assert reader.read(3) == PAYLOADS[3]


def test_labels_are_those_that_the_manifest_has_for_the_examples(records: Records) -> None:
    assert records.labels.tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
def test_no_file_stays_open(records: Records) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with records.reading() as reader:
        assert all(reader.read(example) for example in range(len(PAYLOADS)))
        assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(("cut", "labels"), [(-10, "011"), (None, "0110")], ids=["broken", "too few"])
def test_a_shard_that_is_broken_or_holds_too_little_is_an_error_that_names_the_file_and_is_kept(
    tmp_path: Path, cut: int | None, labels: str
) -> None:
    path = tmp_path / "cut.tfrecord"
    write_records(path, PAYLOADS[:3])
    path.write_bytes(path.read_bytes()[:cut])
    with open_cache(open_bucket(str(tmp_path)), {}, Cache()) as cache:
        records = Records([shard(path.name, labels)], cache)
        with pytest.raises(ValueError, match=r"cut\.tfrecord") as caught, records.reading() as reader:
            reader.read(0)
    assert records.failure is caught.value


@pytest.mark.parametrize(
    ("payload", "told"),
    [(PAYLOADS[1], "its label is not 0, which the manifest says"), (b"no example", "is no tf.train.Example")],
    ids=["label", "bytes"],
)
def test_a_record_of_another_class_than_the_manifest_says_is_an_error_that_names_shard_and_record(
    tmp_path: Path, payload: bytes, told: str
) -> None:
    write_records(tmp_path / "train-0", [*PAYLOADS[:3], payload])
    with open_cache(open_bucket(str(tmp_path)), {}, Cache()) as cache:
        records = Records([shard("train-0", "0110")], cache)
        with records.reading() as reader:
            assert [reader.read(example) for example in range(3)] == PAYLOADS[:3]
            with pytest.raises(RunError, match=f"train-0 record 3: {told}"):
                reader.read(3)
