"""A picture file's bytes before and while a decoder works on them: the limits that are the same on every machine."""

import io
import re
from collections.abc import Iterator

from catdog.errors import RunError

MAX_SCANS = 100
"""A JPEG of more scans is not decoded; cameras and programs write one to a dozen."""
START_OF_SCAN = b"\xff\xda"
"""Before each scan of a JPEG, and, as coded data has no such bytes, nowhere else but in texts and previews."""
MAX_SCANNED = 2_000_000_000
"""Pixels of all scans of a JPEG together."""
MAX_READS = 10_000_000
"""What a decoder may read in single steps: Pillow's Python takes one a pixel, a chunk or a byte of rubbish."""

_MAX_SEGMENTS = 100_000
# Markers that a length follows, and the end; in the coded data 0xFF stands before 0 or a restart marker alone.
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_END = 0xD9
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_IN = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


class Unreadable(RunError):
    """Why a file is not a picture that can be used, in one line."""


class CountedReads(io.BytesIO):
    """A file in memory; raises Unreadable for one read too many."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise Unreadable(f"takes more than the {MAX_READS:,} steps allowed to decode")
        return super().read(size)


def check_scans(jpeg: bytes, pixels: int) -> int:
    """The scans of a JPEG; raises Unreadable where they are more work than a photo's."""
    scans = 0
    for number, (marker, _) in enumerate(_segments(jpeg)):
        scans += marker == START_OF_SCAN[1]
        if scans > MAX_SCANS:
            raise Unreadable(f"more than the {MAX_SCANS} scans allowed in a JPEG")
        if number > _MAX_SEGMENTS:
            raise Unreadable(f"more than the {_MAX_SEGMENTS:,} segments allowed in a JPEG")
    if scans * pixels > MAX_SCANNED:
        raise Unreadable(f"{scans} scans of {pixels:,} pixels are more than the {MAX_SCANNED:,} allowed in a JPEG")
    return scans


def jpeg_bits(jpeg: bytes) -> int | None:
    """Bits of a sample, as the start of the frame tells."""
    return next(
        (jpeg[at + 2] for marker, at in _segments(jpeg) if marker in _START_OF_FRAME and at + 2 < len(jpeg)), None
    )


def without_text(png: bytes) -> bytes:
    """A PNG without its profile and all texts but those that may tell an orientation, for Pillow refuses long ones."""
    kept, at, chunks = [png[:8]], 8, 0
    while at + 12 <= len(png):
        kind, end = png[at + 4 : at + 8], at + 12 + int.from_bytes(png[at : at + 4])
        wanted = kind not in _TEXTS or png.startswith(_ORIENTATION_IN, at + 8)
        if wanted and kind != b"iCCP":
            kept.append(png[at:end])
        at, chunks = end, chunks + 1
        if chunks > _MAX_SEGMENTS:
            raise Unreadable(f"more than the {_MAX_SEGMENTS:,} chunks allowed in a PNG")
    return b"".join([*kept, png[at:]])


def _segments(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """Marker of each segment up to the end of the first picture, and where its length stands."""
    at = 2
    while found := _SEGMENT.search(jpeg, at):
        marker, start = found[1][0], found.end()
        if marker == _END:
            return
        yield marker, start
        at = start + max(int.from_bytes(jpeg[start : start + 2]), 2)
