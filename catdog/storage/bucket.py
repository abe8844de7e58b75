"""What every store offers: whole objects by name, with checksums."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path

import google_crc32c

from catdog.errors import CallerError, FinalError, RunError

PATIENCE = 60.0
"""Seconds for which a fault of a store that may pass is borne."""


WRITE_TEST = ".catdog-write-test"
"""The object that shows whether a place can be written."""
_TESTS = (b"1", b"2")
"""What it holds; a process that was killed may have left it."""


class Changed(RunError):
    """An object is not, or no longer, what it was expected to be."""


class Unavailable(RunError):
    """The store did not answer, or not rightly, for as long as that was borne."""


class TooLarge(FinalError):
    """An object has more bytes than any that is what it should be."""


@dataclass(frozen=True)
class Stat:
    """What is known of an object without its bytes."""

    size: int
    """Bytes."""
    crc32c: str
    """CRC-32C of the bytes, 8 hexadecimal digits; empty where the store does not tell."""
    generation: int = 0
    """Which of the contents that the object has had; 0 where the store does not number them."""
    written: tuple[int, int] | None = field(default=None, compare=False)
    """When a file's bytes and when anything of it last changed, in ns since the epoch; None where it is in no folder."""


def nobody(count: int) -> None:
    """Who is told of bytes that come when no one wants to know."""


@dataclass(frozen=True)
class Bucket(ABC):
    """The objects under one URI. Names are relative, with `/` between their parts. Make one with `open_bucket`.

    Every method raises CallerError where the place or the right to it is missing, and Unavailable when a store does not
    answer for as long as that is borne.
    """

    uri: str
    patience: float = PATIENCE
    """Seconds for which a fault that may pass is borne."""

    @abstractmethod
    def times(self, prefix: str = "", faults: dict[str, str] | None = None) -> dict[str, float]:
        """When each whole object whose name starts with `prefix` was written, in seconds since the epoch.

        With `faults` a place in a folder that cannot be looked at ends nothing: it is put there, with the reason.
        """

    @abstractmethod
    def stat(self, name: str) -> Stat | None:
        """What is known of one object; None where there is none."""

    @abstractmethod
    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        """Copy an object, of the generation that `stat` tells, to a file on this machine, and check every byte of it.

        `tell` is given the number of bytes as they come, perhaps by several threads, 0 before a store is asked, and a
        negative one for those that have to come again; what it raises ends the copy.
        Raises Changed when it is gone or of another generation, RunError when its bytes are not those that
        `stat` tells, however often they are fetched, and Unavailable.
        """

    @abstractmethod
    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file with the object's bytes, for as long as the block lasts; raises FileNotFoundError."""

    @abstractmethod
    def writing(self, name: str, *, new: bool = False) -> contextlib.AbstractContextManager[Path]:
        """A file to write; it becomes the object, durably, when the block ends well and is gone when it ends badly.

        It replaces an object and nothing else: raises as `require_free` does. What is `new` replaces nothing: raises
        Changed where there is such an object already, with other bytes.
        """

    @abstractmethod
    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        """Put an object in place only if it still is as `expected`, or, for None, only if there is none.

        Raises Changed otherwise.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; it is no error when it is not there."""

    @abstractmethod
    def sweep(self, ours: Callable[[str], bool]) -> None:
        """Remove what killed writers of the objects whose names are `ours` left behind, and nothing else."""

    @abstractmethod
    def local(self, name: str) -> Path | None:
        """Where the object lies, or would lie, on this machine's disk; None where it lies elsewhere."""

    @abstractmethod
    def scratch(self) -> Path:
        """A folder on this machine's disk with room for files on their way into the bucket."""

    def require_free(self, names: Iterable[str]) -> None:
        """Raise CallerError where something that is no object, as a pipe or a folder, has one of these names, or stands
        where a folder on the way to it would; a store holds nothing but objects."""
        del names

    def now(self) -> float:
        """The time by the clock that `times` goes by, as far as it is known, in seconds since the epoch."""
        return time.time()

    def require_writable(self) -> None:
        """Write, replace and delete a small object, so that a place that lets none of it be done is told at once.

        Raises CallerError, where there is such an object of somebody else's too, and whatever else is raised by `write`
        and `delete`.
        """
        there = self.stat(WRITE_TEST)
        if there is not None and (there.size > 1 or self.find(WRITE_TEST) not in (None, *_TESTS)):
            raise CallerError(
                f"{self.uri}/{WRITE_TEST}: is not catdog's, which writes one: move it, or name another place"
            )
        for content in _TESTS:  # who may create an object may not always replace it
            self.write(WRITE_TEST, content)
        self.delete(WRITE_TEST)

    def list(self, prefix: str = "") -> list[str]:
        """Names of all whole objects that start with `prefix`, sorted."""
        return sorted(self.times(prefix))

    def stats(self, names: Sequence[str]) -> dict[str, Stat]:
        """What is known of each of the objects that are there."""
        return {name: stat for name in names if (stat := self.stat(name)) is not None}

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.stat(name) is not None

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The object's bytes; raises FileNotFoundError, and TooLarge for more of them than `limit`."""
        with self.reading(name) as path, open(path, "rb") as file:
            content = file.read(-1 if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise self._too_large(name, limit)
        return content

    def find(self, name: str, limit: int | None = None) -> bytes | None:
        """As `read`, but None where there is none."""
        try:
            return self.read(name, limit)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place, replacing what is there; durable when this returns."""
        with self.writing(name) as temporary:
            temporary.write_bytes(content)

    def _too_large(self, name: str, limit: int) -> TooLarge:
        return TooLarge(f"{self.uri}/{name}: has more than the {limit:,} bytes that such a file may have")


def crc32c(path: Path) -> str:
    """CRC-32C of a file's bytes, as 8 hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return crc32c_of(file)


def crc32c_of(file: FileIO | BufferedReader) -> str:
    """That of an open file from its position on, which is then its end."""
    import numpy as np  # here, for it is the largest part of the start of a command that reads no file

    checksum = google_crc32c.Checksum()
    # One buffer for all blocks: fresh memory for each costs several times what the sum itself does. Of buffers that can
    # be written to, the sum takes NumPy's only.
    block = np.empty(1 << 18, np.uint8)
    while size := file.readinto(block.data):
        checksum.update(block[:size])
    return checksum.hexdigest().decode()
