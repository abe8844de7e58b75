"""A shard's file on this machine's disk, opened for whoever reads records."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol

from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.storage import Bucket, Stat


class ShardFiles(Protocol):
    """The files of shards for one pass over them, in the order of its needs."""

    def reach(self, step: int) -> None:
        """Tell that the pass is at a step: what is needed only before it is needed no more."""

    def open(self, shard: Shard) -> BinaryIO:
        """A shard's file, open for reading; waits until it is there."""


class ShardCache(Protocol):
    """Where the files of shards come from."""

    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> contextlib.AbstractContextManager[ShardFiles]:
        """The files for a pass whose needs count the shards by their place in `shards`."""


@contextlib.contextmanager
def open_cache(bucket: Bucket, pins: Mapping[str, Stat]) -> Iterator[ShardCache]:
    """The shards of a bucket, each as its pin tells; a folder's are read where they lie."""
    yield _Folder(bucket)


class _Folder:
    """Shards that lie on this machine's disk already."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @contextlib.contextmanager
    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> Iterator["_Folder"]:
        yield self

    def reach(self, step: int) -> None:
        pass

    def open(self, shard: Shard) -> BinaryIO:
        path = self._bucket.local(shard.name)
        assert path is not None
        return open(path, "rb")
