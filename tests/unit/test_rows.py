"""Rows that were computed of a shard, in the cache's folder."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.data.cache import Rows, file_size
from catdog.data.cache.disk import DiskCache

SHAPE, EXAMPLES = (2, 3), 7
SIZE = file_size(EXAMPLES, SHAPE)
WHOLE = np.random.default_rng(0).standard_normal((EXAMPLES, *SHAPE)).astype(np.float16)
ALL = np.arange(EXAMPLES)
NAME = "train-00000-of-00001.tfrecord"


def rows(folder: Path, most: int = 10 * SIZE, digest: str = "0" * 32) -> Rows:
    disk = DiskCache(folder, most)
    return Rows(disk, disk.path(NAME, SIZE, digest), EXAMPLES, SHAPE)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tfrecord"))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def filled(folder: Path) -> Path:
    found = rows(folder)
    found.put(ALL, WHOLE)
    found.close()
    (entry,) = entries(folder)
    return entry


@given(order=st.permutations(range(EXAMPLES)), cut=st.integers(0, EXAMPLES))
def test_rows_come_back_in_any_order_and_the_next_process_finds_them(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int
) -> None:
    folder, places = tmp_path_factory.mktemp("rows"), np.array(order)
    found = rows(folder)
    assert not found.there.any()
    for part in (places[:cut], places[cut:]):
        found.put(part, WHOLE[part])
        assert found.there[part].all() and np.array_equal(found[part], WHOLE[part])
    assert np.array_equal(found[ALL], WHOLE)
    found.close()
    again = rows(folder)
    assert again.there.all() and np.array_equal(again[ALL], WHOLE)
    again.close()
    assert [path.stat().st_size for path in folder.iterdir() if path.name != ".lock"] == [SIZE]


def test_rows_that_are_not_all_there_are_nobody_elses_and_go_with_their_process(tmp_path: Path) -> None:
    first = rows(tmp_path)
    first.put(ALL[:5], WHOLE[:5])
    second = rows(tmp_path)
    assert not second.there.any()
    first.close()
    second.close()
    assert left(tmp_path) == []


def test_two_that_compute_the_same_do_each_other_no_harm(tmp_path: Path) -> None:
    both = [rows(tmp_path), rows(tmp_path)]
    for half in (ALL[:4], ALL[4:]):
        for each in both:
            each.put(half, WHOLE[half])
    for each in both:
        assert np.array_equal(each[ALL], WHOLE)
        each.close()
    assert len(left(tmp_path)) == 1 and rows(tmp_path).there.all()


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1], ids=["first", "middle", "checksum"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, place: int) -> None:
    entry = filled(tmp_path)
    content = bytearray(entry.read_bytes())
    content[place] ^= 1
    entry.write_bytes(content)
    again = rows(tmp_path)
    assert not again.there.any()
    again.put(ALL, WHOLE)
    again.close()
    assert rows(tmp_path).there.all()


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_is_computed_again(tmp_path: Path, size: int) -> None:
    entry = filled(tmp_path)
    entry.write_bytes(entry.read_bytes().ljust(size, b"x")[:size])
    assert not rows(tmp_path).there.any()


def test_what_decides_the_rows_names_them(tmp_path: Path) -> None:
    filled(tmp_path)
    assert not rows(tmp_path, digest="1" * 32).there.any()


def test_rows_without_room_are_kept_for_their_process(tmp_path: Path) -> None:
    found = rows(tmp_path, most=SIZE - 1)
    found.put(ALL, WHOLE)
    assert np.array_equal(found[ALL], WHOLE)
    found.close()
    assert left(tmp_path) == []


def test_rows_in_use_stay_and_others_make_room(tmp_path: Path) -> None:
    filled(tmp_path)
    used = rows(tmp_path, most=2 * SIZE)
    for digest in ("1" * 32, "2" * 32):
        other = rows(tmp_path, most=2 * SIZE, digest=digest)
        other.put(ALL, WHOLE)
        other.close()
    assert [entry.name[:32] for entry in entries(tmp_path)] == ["0" * 32, "2" * 32]
    assert np.array_equal(used[ALL], WHOLE)
    used.close()
