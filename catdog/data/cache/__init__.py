"""Where the files of shards come from: the folder that they lie in, or a bounded local copy of what a store has."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from catdog.data.cache.disk import LOCK, DiskCache
from catdog.data.cache.prefetch import Closed, FetchedShards
from catdog.data.cache.required_size import require_limit, required_bytes
from catdog.data.cache.rows import Rows, file_size
from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.errors import CallerError
from catdog.recipe import Cache
from catdog.storage import Bucket, Folder, Stat, expanded, unwaiting

__all__ = [
    "Closed",
    "Rows",
    "ShardCache",
    "ShardFiles",
    "disk_cache",
    "file_size",
    "open_cache",
    "require_limit",
    "required_bytes",
]


class ShardFiles(Protocol):
    """The files of shards for one pass over them, in the order of its needs."""

    def reach(self, step: int) -> None:
        """Tell that the pass is at a step: what is needed only before it is needed no more."""

    def open(self, shard: Shard) -> BinaryIO:
        """A shard's file, open for reading; waits until it is there and raises what came in the way."""


class ShardCache(Protocol):
    """Where the files of shards come from."""

    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> contextlib.AbstractContextManager[ShardFiles]:
        """The files for a pass whose needs count the shards by their place in `shards`."""

    def close(self) -> None:
        """Bring nothing more: who waits for a shard gets Closed."""


@contextlib.contextmanager
def open_cache(bucket: Bucket, pins: Mapping[str, Stat], settings: Cache) -> Iterator[ShardCache]:
    """The shards of a bucket, each as its pin tells; a folder's are read where they lie, others are fetched ahead.

    A folder's shard without a pin is read as it is. Raises CallerError when the cache's folder can't be written.
    """
    if isinstance(bucket, Folder):
        yield _InPlace(bucket, pins)
        return
    _let_open(len(pins))
    cache = FetchedShards(bucket, pins, settings, disk_cache(settings))
    try:
        yield cache
    finally:
        cache.close()


def disk_cache(settings: Cache) -> DiskCache:
    """The cache's folder; raises CallerError when it can't be written."""
    return DiskCache(_made(settings), settings.max_bytes)


def _made(settings: Cache) -> Path:
    """The cache's folder, which is there and can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = expanded(settings.folder or f"{home}/catdog")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise CallerError(f"cache.folder = {str(folder)!r}: cannot be written: {error.strerror}") from None
    return folder


def _let_open(files: int) -> None:
    """Let this process have so many more files open, as far as it may, for each shard in use is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + files
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class _InPlace:
    """Shards that lie on this machine's disk already."""

    def __init__(self, folder: Folder, pins: Mapping[str, Stat]) -> None:
        self._folder = folder
        self._pins = dict(pins)

    @contextlib.contextmanager
    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> Iterator["_InPlace"]:
        yield self

    def close(self) -> None:
        pass

    def reach(self, step: int) -> None:
        pass

    def open(self, shard: Shard) -> BinaryIO:
        if shard.name not in self._pins:
            return open(self._folder.local(shard.name), "rb", opener=unwaiting)
        file, self._pins[shard.name] = self._folder.open_pinned(shard.name, self._pins[shard.name])
        return file
