from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from catdog.data.tfrecord import checked_payload, record_index, write_records

PAYLOADS = [b"", b"a", bytes(1000), b"\xff" * 70_000]


def index_of(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return record_index(file)


def test_tensorflow_reads_the_records_with_their_checksums(tmp_path: Path) -> None:
    write_records(tmp_path / "shard", PAYLOADS)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "shard"))] == PAYLOADS


def test_records_are_the_bytes_that_tensorflow_writes(tmp_path: Path) -> None:
    write_records(tmp_path / "ours", PAYLOADS)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_index_gives_each_payload(tmp_path: Path) -> None:
    write_records(tmp_path / "shard", PAYLOADS)
    index = index_of(tmp_path / "shard")
    content = (tmp_path / "shard").read_bytes()
    assert index.dtype == np.int64
    assert [content[offset : offset + length] for offset, length in index] == PAYLOADS


def test_an_empty_file_has_an_empty_index(tmp_path: Path) -> None:
    write_records(tmp_path / "shard", [])
    assert index_of(tmp_path / "shard").shape == (0, 2)


@pytest.mark.parametrize("cut", [1, 4, 15])
def test_a_file_cut_short_has_no_index_and_the_record_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "shard"
    write_records(path, [b"abc", b""])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="record 1 runs past the end"):
        index_of(path)


@pytest.mark.parametrize("place", ["length", "its checksum", "payload", "its checksum too"])
def test_a_flipped_bit_anywhere_in_a_record_is_noticed(tmp_path: Path, place: str) -> None:
    path = tmp_path / "shard"
    write_records(path, [b"before", b"payload", b"after"])
    offset, length = index_of(path)[1].tolist()
    at = {"length": offset - 12, "its checksum": offset - 1, "payload": offset, "its checksum too": offset + length}[
        place
    ]
    with open(path, "r+b") as file:
        assert checked_payload(file, offset, length) == b"payload"
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 8]))
        file.flush()
        with pytest.raises(ValueError, match="checksum"):
            checked_payload(file, offset, length)
