"""Rows that were computed of a shard's records, kept in the cache's folder."""

import math
import os
import tempfile
from typing import BinaryIO

import google_crc32c
import numpy as np

from catdog.data.cache.disk import DiskCache, hold, mark_used
from catdog.errors import naming

_CHECKSUM = 4
"""Bytes of CRC-32C that follow the rows of a file."""

Places = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Halves = np.ndarray[tuple[int, ...], np.dtype[np.float16]]


def file_size(examples: int, shape: tuple[int, ...]) -> int:
    """Bytes of the file that holds a float16 row of this shape for each of so many records."""
    return 2 * examples * math.prod(shape) + _CHECKSUM


class Rows:
    """A float16 row for each record of a shard, by its place there.

    They are a file of the cache, that others may use too, once all are there: the rows in the order of the records, and
    their checksum. Until then they lie in a file on its way, which goes with this process; so do those that another
    process is writing at the same time, or that the cache has no room for. To be closed.
    """

    def __init__(self, disk: DiskCache, path: str, examples: int, shape: tuple[int, ...]) -> None:
        self._disk, self._path = disk, path
        self.there = np.zeros(examples, np.bool_)
        self._reservation: BinaryIO | None = None
        self._file = self._found(file_size(examples, shape)) or self._begun(file_size(examples, shape))
        self._rows: Halves = np.memmap(self._file, np.float16, "r", shape=(examples, *shape))

    def __getitem__(self, places: Places) -> Halves:
        """The rows at some places, which have to be there."""
        return self._rows[places]

    def put(self, places: Places, rows: Halves) -> None:
        """Keep rows at their places. Raises OSError that names the file, as on a full disk."""
        with naming(self._disk.part(self._path)):
            for place, row in zip(places.tolist(), rows, strict=True):
                os.pwrite(self._file.fileno(), row.tobytes(), place * row.nbytes)
        self.there[places] = True
        if self._reservation is not None and self.there.all():
            self._complete()

    def close(self) -> None:
        del self._rows
        self._file.close()
        if self._reservation is not None:
            self._disk.release(self._path, self._reservation)
        mark_used(self._path)

    def _found(self, size: int) -> BinaryIO | None:
        """The file of the cache, held; one that is damaged is deleted."""
        if (held := hold(self._path)) is None:
            return None
        content = held.read(size + 1)
        if len(content) == size and content[-_CHECKSUM:] == _checksum(content[:-_CHECKSUM]):
            self.there[:] = True
            return held
        self._disk.discard(self._path, held)
        return None

    def _begun(self, size: int) -> BinaryIO:
        self._reservation = self._disk.reserve(self._path, size, urgent=False)
        if self._reservation is None:
            file: BinaryIO = tempfile.TemporaryFile(dir=self._disk.folder)  # noqa: SIM115
        else:
            file = open(self._disk.part(self._path), "w+b")  # noqa: SIM115
        with naming(self._disk.part(self._path)):
            file.truncate(size)
        return file

    def _complete(self) -> None:
        assert self._reservation is not None
        with naming(self._disk.part(self._path)):
            os.pwrite(self._file.fileno(), _checksum(self._rows.tobytes()), self._rows.nbytes)
        held = self._disk.complete(self._path)
        self._disk.release(self._path, self._reservation)
        self._file.close()  # its map stays
        self._file, self._reservation = held, None


def _checksum(content: bytes) -> bytes:
    return google_crc32c.value(content).to_bytes(_CHECKSUM)
