"""The records of a split, read by their example."""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import damaged

from catdog.data.cache import open_cache
from catdog.data.example import encode_example
from catdog.data.records import Records
from catdog.data.shards import Shard, pinned
from catdog.data.tfrecord import record_index, write_records
from catdog.errors import FinalError, RunError
from catdog.recipe import Cache
from catdog.storage import Changed, crc32c, open_bucket

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
        assert reader.read(range(len(PAYLOADS))) == PAYLOADS
        assert reader.read([3]) == [PAYLOADS[3]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 8)))
def test_records_are_read_in_any_order_and_as_often_as_they_are_asked_for(
    records: Records, examples: list[int]
) -> None:
    with records.reading() as reader:
        assert reader.read(examples) == [PAYLOADS[example] for example in examples]


def test_labels_are_those_that_the_manifest_has_for_the_examples(records: Records) -> None:
    assert records.labels.tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
def test_no_file_stays_open(records: Records) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with records.reading() as reader:
        assert all(reader.read(range(len(PAYLOADS))))
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
            reader.read([0])
    assert records.failure is caught.value


NAME = "train-00000-of-00001.tfrecord"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A shard in a folder, written long ago."""
    path = tmp_path / "data" / NAME
    path.parent.mkdir()
    write_records(path, PAYLOADS[:4])
    os.utime(path, (1e9, 1e9))
    return path


@contextlib.contextmanager
def begun(path: Path) -> Iterator[Callable[[], list[bytes]]]:
    """What reads all records of a shard, which was checked before."""
    bucket, whole = open_bucket(str(path.parent)), Shard(NAME, "train", path.stat().st_size, crc32c(path), "0110")
    with open_cache(bucket, pinned(bucket, [whole]), Cache()) as cache, Records([whole], cache).reading() as reader:
        yield lambda: reader.read(range(4))


def by_name(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("times_too", [False, True], ids=["", "and its time"])
@pytest.mark.parametrize("rewrite", [by_name, in_place])
@pytest.mark.parametrize("read_before", [False, True])
def test_a_shard_that_is_replaced_by_one_of_right_checksums_is_told_by_its_name(
    path: Path, rewrite: Callable[[Path, bytes], None], read_before: bool, times_too: bool, tmp_path: Path
) -> None:
    write_records(tmp_path / "other", [payload[::-1] for payload in PAYLOADS[:4]])  # as long, and as long each
    with begun(path) as read:
        if read_before:
            assert read() == PAYLOADS[:4]
        time.sleep(0.05)  # more than the grain of a file's times
        rewrite(path, (tmp_path / "other").read_bytes())
        if times_too:
            os.utime(path, (1e9, 1e9))
        with pytest.raises(
            Changed, match=rf"{NAME}: was written anew .*: crc32c \w{{8}} expected, \w{{8}} found"
        ) as told:
            read()
    assert "\n" not in str(told.value)


def test_a_shard_that_is_deleted_is_told_by_its_name(path: Path) -> None:
    with begun(path) as read:
        path.unlink()
        with pytest.raises(Changed, match=rf"{NAME}: was deleted"):
            read()


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.touch(),
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_suffix(".link")),
        lambda path: by_name(path, path.read_bytes()),
        lambda path: in_place(path, path.read_bytes()),
        lambda path: shutil.move(shutil.copy(path, path.with_suffix(".copy")), path),
    ],
    ids=["touched", "mode", "linked", "replaced", "rewritten", "moved"],
)
def test_a_shard_whose_file_changes_but_not_its_bytes_is_read_on(path: Path, touch: Callable[[Path], object]) -> None:
    with begun(path) as read:
        for _ in range(2):
            touch(path)
            path.with_suffix(".link").unlink(missing_ok=True)
            assert read() == PAYLOADS[:4]


@pytest.mark.parametrize("place", ["length", "its checksum", "payload", "its checksum too"])
def test_a_bit_that_flips_on_the_disk_is_told_with_shard_and_record(path: Path, place: str) -> None:
    """As a failing disk does it, of which the file's times tell nothing."""
    bucket, whole = open_bucket(str(path.parent)), shard(NAME, "0110")
    with open_cache(bucket, {}, Cache()) as cache, Records([whole], cache).reading() as reader:
        assert reader.read([2]) == [PAYLOADS[2]]
        with open(path, "rb") as file:
            offset, length = record_index(file)[2].tolist()
        at = {"length": -12, "its checksum": -1, "payload": length // 2, "its checksum too": length}[place]
        path.write_bytes(damaged(path.read_bytes(), offset + at))
        assert reader.read([1]) == [PAYLOADS[1]]
        with pytest.raises(Changed, match=rf"{NAME}: record 2: its checksum does not match its bytes"):
            reader.read([2])


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
            assert reader.read(range(3)) == PAYLOADS[:3]
            with pytest.raises(RunError, match=f"train-0 record 3: {told}"):
                reader.read([3])


def test_a_record_whose_picture_has_scans_without_end_is_not_decoded(tmp_path: Path) -> None:
    scans = encode_example({"image/class/label": 0, "image/encoded": b"\xff\xda" * 101})
    write_records(tmp_path / "train-0", [scans])
    with open_cache(open_bucket(str(tmp_path)), {}, Cache()) as cache:
        records = Records([shard("train-0", "0")], cache)
        with records.reading() as reader, pytest.raises(FinalError, match="train-0 record 0: 101 scans are more than"):
            reader.read([0])
