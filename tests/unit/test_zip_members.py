"""Zip files as they are and as they should not be."""

import gzip
import io
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from pictures import write

from catdog.data.sources import open_source
from catdog.data.zip_members import zip_members
from catdog.errors import CallerError
from tests.pace import within

PACKINGS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}
ENTRY = b"PK\1\2"  # of the archive's list
FILE = b"PK\3\4"


def archive(path: Path, *members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def changed(path: Path, at: int, value: bytes, *, local: int | None = None) -> Path:
    """The archive with some bytes of its first entry in the list changed, and in the member's own header."""
    content = bytearray(path.read_bytes())
    for header, place in ((ENTRY, at), (FILE, local)):
        if place is not None:
            start = content.index(header) + place
            content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("content", [b"", b"a cat", bytes(range(256)) * 500], ids=len)
def test_each_packing_gives_the_bytes_that_went_in(tmp_path: Path, packing: int, content: bytes) -> None:
    (member,) = zip_members(archive(tmp_path / "a.zip", ("cat/1.jpg", content), packing=packing))
    assert member[:2] == ("cat/1.jpg", len(content))
    assert member[2].read() == content


@pytest.mark.parametrize("packing", list(PACKINGS.values())[1:], ids=list(PACKINGS)[1:])
def test_a_member_that_unpacks_to_more_than_it_declares_is_told_before_it_is_unpacked(
    tmp_path: Path, packing: int
) -> None:
    path = archive(tmp_path / "a.zip", ("cat/1.jpg", bytes(200_000_000)), packing=packing)
    changed(path, 24, struct.pack("<I", 1000))
    ((_, size, member),) = zip_members(path)
    assert size == 1000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than the 1,000 bytes"):
        member.read()
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_member_of_less_than_it_declares_or_of_other_bytes_is_told(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("cat/1.jpg", b"a cat"))
    changed(path, 24, struct.pack("<I", 1000))
    with pytest.raises(ValueError, match="less than the 1,000 bytes"):
        zip_members(path)[0][2].read()
    path = changed(archive(tmp_path / "b.zip", ("cat/1.jpg", b"a cat")), 16, b"\1\2\3\4")
    with pytest.raises(ValueError, match="CRC-32"):
        zip_members(path)[0][2].read()


def test_an_unknown_packing_and_a_password_are_told(tmp_path: Path) -> None:
    path = changed(archive(tmp_path / "a.zip", ("cat/1.jpg", b"a cat")), 10, b"\x09\0", local=8)
    with pytest.raises(ValueError, match="deflate64"):
        zip_members(path)[0][2].read()
    path = changed(archive(tmp_path / "b.zip", ("cat/1.jpg", b"a cat")), 8, b"\1\0", local=6)
    with pytest.raises(ValueError, match="encrypted"):
        zip_members(path)[0][2].read()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_both_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("cat/1.jpg", b"one"), ("cat/1.jpg", b"other"), ("cat\\1.jpg", b"third"))
    items = list(open_source(f"folder:{path}", 0).items)
    assert [(item.name, item.label) for item in items] == [
        ("cat/1.jpg", 0),
        ("cat/1.jpg (2)", 0),
        ("cat/1.jpg (3)", 0),
    ]
    assert [item.content.read() for item in items if item.content] == [b"one", b"other", b"third"]


@pytest.mark.parametrize(
    "name", [".", "./", "", "/", "//", "..", "\\", "../..", "cat/..", "/cat/1.jpg", "../../cat/1.jpg"]
)
def test_no_name_stops_the_work(tmp_path: Path, name: str) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = name
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, b"content")
        file.writestr("cat/2.jpg", b"content")
    items = list(open_source(f"folder:{tmp_path / 'a.zip'}", 0).items)
    assert "cat/2.jpg" in [item.name for item in items]
    assert all(item.label is not None or item.reason for item in items)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\5\6",
        b"PK\5\6" + b"\xff" * 18,
        b"PK\5\6" + bytes(4) + struct.pack("<HHIIH", 1, 1, 46, 0, 0),
    ],
)
def test_what_is_no_zip_file_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CallerError, match="neither a folder nor a zip file") as caught:
        zip_members(write(tmp_path / "a.zip", content))
    assert "\n" not in str(caught.value)


def test_a_zip_file_cut_short_and_what_is_another_archive_are_told(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip", ("cat/1.jpg", bytes(1000))).read_bytes()
    with pytest.raises(CallerError, match="its list of files, at its end, is not there: was it cut short"):
        zip_members(write(tmp_path / "cut.zip", whole[:-40]))
    with pytest.raises(CallerError, match="it is of format gzip"):
        zip_members(write(tmp_path / "a.tar.gz", gzip.compress(bytes(1000))))


def test_a_zip_file_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = changed(archive(tmp_path / "a.zip", ("cat/1.jpg", b"a cat")), 6, b"\x63\0")
    with pytest.raises(CallerError, match=r"neither a folder nor a zip file that can be read: .*9\.9"):
        open_source(f"folder:{path}", 0)


def test_a_zip_file_in_another_is_told_with_what_to_give(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("train/cat.1.jpg", b"a cat")
    path = archive(tmp_path / "a.zip", ("train.zip", inner.getvalue()), ("sampleSubmission.csv", b"id"))
    reasons = {item.name: item.reason for item in open_source(f"folder:{path}", 0).items}
    assert "give folder:PATH/train.zip" in reasons["train.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_number_of_files_of_one_name_takes_time_by_their_number(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", *[("cat/1.jpg", b"")] * 30_000, packing=zipfile.ZIP_STORED)
    began = time.process_time()
    assert len({name for name, *_ in zip_members(path)}) == 30_000
    assert time.process_time() - began < within(10)  # by the square of their number it would be minutes
