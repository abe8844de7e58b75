"""What the directories of a TIFF tell of its pictures, read without Pillow, which is silent on kinds it does not know."""

import struct
from collections.abc import Iterable
from enum import IntEnum


class Tag(IntEnum):
    """Those that matter here."""

    KIND = 254
    OLD_KIND = 255
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    MAKE = 271
    SUB_DIRECTORIES = 330
    SAMPLE_FORMAT = 339
    DNG_VERSION = 50706


Tags = dict[int, tuple[int, ...]]
"""The whole numbers of each tag that matters, or the bytes of its text; what is broken is left out."""

_WANTED = frozenset(Tag)
_INTEGERS = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_DIRECTORIES = 64
_MAX_TAGS = 4096
_MAX_VALUES = 64

_PREVIEW_OR_MASK = 1 | 4
_OLD_PREVIEW = 2


def directories(content: bytes) -> tuple[list[Tags], list[Tags]]:
    """The pages of a TIFF in their order, none where it is broken, and the sub-directories of them all."""
    reader = _Reader(content)
    pages = reader.chains([reader.first])
    return pages, reader.chains(at for page in pages for at in page.get(Tag.SUB_DIRECTORIES, ()))


def is_preview(page: Tags) -> bool:
    """Whether a page is a smaller copy of another picture, or a mask for it."""
    return bool(page.get(Tag.KIND, (0,))[0] & _PREVIEW_OR_MASK) or page.get(Tag.OLD_KIND, (0,))[0] == _OLD_PREVIEW


class _Reader:
    """Reads each directory once, and no more of them than bound the work."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._order = "<" if content.startswith(b"II") else ">"
        big = 43 in content[2:4]
        self._counted, self._number, self._entry = ("Q", "Q", "HHQ8x") if big else ("H", "I", "HHI4x")
        self._width = struct.calcsize(self._number)
        self._seen: set[int] = set()
        (self.first,) = self._at(self._width, self._number) or (0,)

    def chains(self, places: Iterable[int]) -> list[Tags]:
        """The directories at these places, each with those that follow it."""
        found = []
        for at in places:
            while at and at not in self._seen and len(self._seen) < _MAX_DIRECTORIES:
                self._seen.add(at)
                tags, at = self._directory(at)
                found.append(tags)
        return found

    def _directory(self, at: int) -> tuple[Tags, int]:
        """Its tags, and the place of the next."""
        (count,) = self._at(at, self._counted) or (0,)
        begin, step = at + struct.calcsize(self._counted), struct.calcsize("=" + self._entry)
        tags: Tags = {}
        for entry in range(begin, begin + step * min(count, _MAX_TAGS), step):
            tag, kind, length = self._at(entry, self._entry) or (0, 0, 0)
            if tag in _WANTED and kind in _INTEGERS and length:
                tags[tag] = self._values(entry + step - self._width, _INTEGERS[kind], length)
        (following,) = self._at(begin + step * count, self._number) or (0,)
        return {tag: values for tag, values in tags.items() if values}, following

    def _values(self, at: int, form: str, length: int) -> tuple[int, ...]:
        if length * struct.calcsize("=" + form) > self._width:
            (at,) = self._at(at, self._number) or (0,)
        return self._at(at, f"{min(length, _MAX_VALUES)}{form}")

    def _at(self, place: int, form: str) -> tuple[int, ...]:
        """The numbers there, or none beyond the end."""
        try:
            return struct.unpack_from(self._order + form, self._content, place)
        except (struct.error, OverflowError):
            return ()
