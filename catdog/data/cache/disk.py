"""The cache's folder on the disk: files of shards, counted against one limit by all processes that share the folder.

The processes agree by the folder's files alone. An entry is named by its content, `CRC32C-SIZE-SHARD`, or, for what was
computed of a shard, by the digest of all that decides it, `DIGEST-SIZE-SHARD`, and counts at its full size from before its
first byte: `ENTRY.part` is on its way, and who fetches it keeps `ENTRY.lock` locked. A shared lock on an entry says that it
is in use. Its time of modification tells when it was last used, or, if it lies in the future, that it is wanted. The
kernel drops the locks of a process that dies.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from catdog.data.shards import SHARD_NAME
from catdog.storage.lock import alone, try_lock

PATIENCE = 120.0
"""Seconds of waiting for what other processes hold: the folder, and, unless the store is waited for longer, space and
an entry that does not grow."""
LOCK = ".lock"
_WANTED = 600.0
"""Seconds for which no prefetch evicts what is wanted; counted anew each time it is marked."""
_PART = ".part"

_ENTRY = re.compile(
    rf"(?P<entry>([0-9a-f]{{8}}|[0-9a-f]{{32}})-(?P<size>\d+)-{SHARD_NAME.pattern})(?P<mark>\.part|\.lock)?"
)


class DiskCache:
    """The entries of the cache's folder, as all processes see them.

    They come and go under the folder's lock only, but a shared lock that keeps one there may be taken without it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        with self._changing():
            for path, size in self._sizes().items():
                if os.path.exists(path) and os.path.getsize(path) != size:
                    _evict(path)
            self._free(0, self._sizes(), urgent=True)

    def path(self, name: str, size: int, content: str) -> str:
        """Where an entry lies, once it is there: `content` is the shard's CRC-32C, 8 hexadecimal digits, or the digest, 32
        of them, of what decides what was computed of it."""
        return f"{self.folder}/{content}-{size}-{name}"

    def fits(self, size: int) -> bool:
        """Whether so many bytes may lie in the folder, if nothing else does, and the disk has room for them."""
        with self._changing():
            held = sum(size for path, size in self._sizes().items() if os.path.exists(path))
            return size <= min(self._max_bytes, shutil.disk_usage(self.folder).free + held)

    def part(self, path: str) -> Path:
        """What a fetch of an entry writes."""
        return Path(path + _PART)

    def reserve(self, path: str, size: int, urgent: bool) -> BinaryIO | None:
        """The lock of who may fetch an entry; None when it is there or on its way already, or there is no space."""
        with self._changing():
            sizes = self._sizes()
            if path in sizes or not self._free(size, sizes, urgent):
                return None
            Path(path + LOCK).touch()
            return _locked(path + LOCK, fcntl.LOCK_EX)

    def evict(self, size: int, urgent: bool) -> bool:
        """Evict the least useful entries, of so many bytes if there are as many; whether there was any.

        For a disk that is full before the limit is reached.
        """
        with self._changing():
            sizes = self._sizes()
            freed = 0
            for path in _by_usefulness(sizes, urgent):
                if freed < size and _evict(path):
                    freed += sizes[path]
            return freed > 0

    def complete(self, path: str) -> BinaryIO:
        """Turn what was fetched into the entry, held."""
        with self._changing():
            # No fsync: what a crash of the machine leaves is checked before it is used.
            os.replace(path + _PART, path)
            held = hold(path)
            assert held is not None
            return held

    def release(self, path: str, reservation: BinaryIO) -> None:
        """End a fetch, and take away what is left of one that did not complete."""
        with reservation:
            _unlink(path + _PART)
            _unlink(path + LOCK)

    def discard(self, path: str, broken: BinaryIO) -> None:
        """Delete an entry, if it still is the file that was found broken."""
        with broken, self._changing():
            if os.path.exists(path) and os.path.samestat(os.fstat(broken.fileno()), os.stat(path)):
                _unlink(path)

    def is_growing(self, path: str) -> bool:
        """Whether an entry on its way grew within the last second; a time ahead of this clock is no sign of it."""
        return abs(time.time() - _modified(path + _PART)) < 1

    def in_use(self) -> dict[str, int]:
        """The size of each entry that is held or on its way."""
        with self._changing():
            return {path: size for path, size in self._sizes().items() if _is_in_use(path) or _is_in_use(path + LOCK)}

    def _changing(self) -> contextlib.AbstractContextManager[None]:
        """Alone with the folder, for moments only; raises RunError when another process does not let go of it."""
        return alone(self.folder / LOCK, PATIENCE)

    def _sizes(self) -> dict[str, int]:
        """The size of each entry, there or on its way; deletes what killed processes left on its way."""
        sizes = {}
        for found in filter(None, map(_ENTRY.fullmatch, os.listdir(self.folder))):
            path = f"{self.folder}/{found['entry']}"
            if found["mark"] and not _is_in_use(path + LOCK):
                _unlink(path + found["mark"])
            else:
                sizes[path] = int(found["size"])
        return sizes

    def _free(self, size: int, sizes: dict[str, int], urgent: bool) -> bool:
        """Evict the least useful entries, if that frees the space; only what is urgent takes that of what is wanted."""
        excess = sum(sizes.values()) + size - self._max_bytes
        victims: list[str] = []
        for path in _by_usefulness(sizes, urgent) if excess > 0 else ():
            if excess > 0 and not _is_in_use(path):
                victims.append(path)
                excess -= sizes[path]
        return excess <= 0 and all(_evict(path) for path in victims)


def hold(path: str) -> BinaryIO | None:
    """An entry's file with a shared lock, which keeps it there until the file is closed; None if it can't be had now."""
    return _locked(path, fcntl.LOCK_SH)


def is_linked(file: BinaryIO) -> bool:
    """Whether an open file was not deleted."""
    return os.fstat(file.fileno()).st_nlink > 0


def identity(file: BinaryIO) -> tuple[int, ...]:
    """What tells an open file from another one that takes its place; each mark changes its times."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size


def mark_wanted(path: str) -> bool:
    """Let no prefetch evict an entry for a while, and others what was marked last first; False if it is not there."""
    return _touch(path, _WANTED)


def mark_used(path: str) -> None:
    """Let an entry be evicted, after those that were used before."""
    _touch(path, 0)


def _by_usefulness(paths: Iterable[str], wanted_too: bool) -> list[str]:
    """The files that are there, the least recently used first, then those that are wanted, the last wanted first."""
    now, times = time.time(), {path: _modified(path) for path in paths}
    used = sorted((path for path, when in times.items() if 0 < when <= now), key=times.__getitem__)
    wanted = sorted((path for path, when in times.items() if when > now), key=times.__getitem__, reverse=True)
    return used + wanted if wanted_too else used


def _locked(path: str, kind: int) -> BinaryIO | None:
    """A file, open and locked; None if it is not there or someone's lock forbids it."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
        file = closing.enter_context(open(path, "r+b"))  # NFS grants no exclusive lock to a mere reader
        if try_lock(file, kind) and is_linked(file):
            closing.pop_all()
            return file
    return None


def _is_in_use(path: str) -> bool:
    """Whether someone's lock is on a file that is there."""
    if file := _locked(path, fcntl.LOCK_EX):
        file.close()
    return file is None and os.path.exists(path)


def _evict(path: str) -> bool:
    """Delete a file if nobody uses it."""
    if file := _locked(path, fcntl.LOCK_EX):
        with file:
            _unlink(path)
    return file is not None


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _modified(path: str) -> float:
    """When a file was modified; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _touch(path: str, ahead: float) -> bool:
    """Set a file's time of modification to now or to some seconds ahead; False if it is not there."""
    when = time.time() + ahead
    try:
        os.utime(path, (when, when))
    except FileNotFoundError:
        return False
    return True
