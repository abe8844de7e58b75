"""The files in a zip archive, unpacked to no more bytes than they declare."""

import bz2
import contextlib
import copy
import functools
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from catdog.data.picture_formats import format_of
from catdog.errors import CallerError, one_line
from catdog.storage import unwaiting

_OTHERS = {9: "deflate64", 93: "Zstandard", 98: "PPMd"}
"""Packings that are not read."""


@dataclass(frozen=True)
class Member:
    """A file in a zip archive, by its number there: two may have one name."""

    archive: Path
    number: int

    def read(self) -> bytes:
        """Its content, in whose length and checksum the archive's list may be trusted; raises ValueError otherwise."""
        archive = _archive(self.archive)
        info = archive.infolist()[self.number]
        content = _unpacked(_packed(archive, info), info)
        if len(content) != info.file_size:
            more = "more" if len(content) > info.file_size else "less"
            raise ValueError(f"unpacks to {more} than the {info.file_size:,} bytes that the zip file declares")
        if zlib.crc32(content) != info.CRC:
            raise ValueError("its CRC-32 is not the one that the zip file declares")
        return content


def zip_members(path: Path) -> list[tuple[str, int, Member]]:
    """Name and declared size of each file in an archive; where two have one name, the later ones get a number.

    Raises CallerError for what is no zip file that can be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [
                (number, info) for number, info in enumerate(archive.infolist()) if not info.filename.endswith("/")
            ]
    except Exception as error:  # zipfile raises errors of many kinds on broken input
        raise CallerError(
            f"folder:{path}: is neither a folder nor a zip file that can be read: {_why_none(path, error)}"
        ) from None
    found: dict[str, tuple[str, int, Member]] = {}
    last: dict[str, int] = {}
    for number, info in infos:
        # Some Windows programs write backslashes between the parts of a name.
        first = name = info.filename.replace("\\", "/")
        again = last.get(first, 1)
        while name in found:
            again += 1
            name = f"{first} ({again})"
        last[first] = again
        found[name] = name, info.file_size, Member(path, number)
    return list(found.values())


def _why_none(path: Path, error: Exception) -> str:
    """What a file is that zipfile takes for no archive."""
    with contextlib.suppress(OSError), open(path, "rb", opener=unwaiting) as file:
        name = format_of(file.read(4096) or b"")
        if name == "zip" and isinstance(error, zipfile.BadZipFile) and not zipfile.is_zipfile(path):
            return "it begins as one, but its list of files, at its end, is not there: was it cut short on its way?"
        if name not in (None, "zip"):
            return f"it is of format {name}"
    return one_line(error)


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes as they lie in the archive: zipfile would unpack without a limit, whatever is declared."""
    if info.flag_bits & 1:
        raise ValueError("is encrypted: unpack it with its password, and give the folder")
    if info.compress_size > info.file_size + 1_000_000:
        raise ValueError(f"{info.compress_size:,} packed bytes for {info.file_size:,} are more than any packing takes")
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    stored.CRC = None  # type: ignore[assignment]  # what zipfile then does not compare
    with archive.open(stored) as file:
        return file.read()


def _unpacked(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    """At most one byte more than is declared."""
    limit = info.file_size + 1
    if info.compress_type == zipfile.ZIP_STORED:
        return packed
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
    if info.compress_type == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(packed, limit)
    if info.compress_type == zipfile.ZIP_LZMA:
        return _of_lzma(packed, limit)
    name = _OTHERS.get(info.compress_type, f"method {info.compress_type}")
    raise ValueError(f"is packed by {name}, which is not read: unpack the zip file and give the folder")


def _of_lzma(packed: bytes, limit: int) -> bytes:
    """LZMA as a zip file holds it: two bytes of version, two of the size of the properties, these, and the data."""
    start = 4 + int.from_bytes(packed[2:4], "little")
    settings, window = packed[4], int.from_bytes(packed[5:9], "little")
    filters = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": min(max(window, 4096), max(limit, 4096)),  # a longer one reaches beyond the declared bytes
        "lc": settings % 9,
        "lp": settings // 9 % 5,
        "pb": settings // 45,
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters]).decompress(packed[start:], limit)
