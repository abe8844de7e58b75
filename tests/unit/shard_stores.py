"""Stores of shards in memory, passes that read them, and looks into the folder of the cache that lies between."""

import contextlib
import fcntl
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import Checksum

from catdog.data.cache import ShardCache, ShardFiles, disk, open_cache
from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.recipe import Cache
from catdog.storage import Stat
from tests.pace import within

SIZE = 1000
LONG = within(120.0)
"""Seconds that no test needs, however busy the machine."""


def content(shard: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(shard).bytes(size)


def make_shards(
    count: int, sizes: Sequence[int] = (), examples: Sequence[int] = (), split: str = "train"
) -> list[Shard]:
    return [
        Shard(
            name=f"{split}-{i:05}-of-{count:05}.tfrecord",
            split=split,
            bytes=(sizes or [SIZE] * count)[i],
            crc32c=Checksum(content(i, (sizes or [SIZE] * count)[i])).hexdigest().decode(),
            labels="0" * (examples or [10] * count)[i],
        )
        for i in range(count)
    ]


class FakeBucket:
    """Shards in memory, whose fetches are noted, and held up or failed on demand."""

    uri = "gs://fake"
    patience = 0.0

    def __init__(self, *splits: Sequence[Shard], delay: float = 0.0, log: Path | None = None) -> None:
        shards = [(i, shard) for split in splits for i, shard in enumerate(split)]
        self._contents = {shard.name: (i, shard.bytes) for i, shard in shards}
        self.pins = {shard.name: Stat(shard.bytes, shard.crc32c, 7) for _, shard in shards}
        self._delay = delay
        self._log = log
        self.begun: list[int] = []
        self.underway: list[int] = []
        self.gates: dict[int, threading.Event] = {}
        self.failures: dict[int, list[Exception]] = {}

    def local(self, name: str) -> None:
        return None

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None]) -> None:
        shard, size = self._contents[name]
        assert stat == self.pins[name]
        self.underway.append(shard)
        self.begun.append(shard)
        if self._log is not None:
            with open(self._log, "a") as log:
                log.write(f"{name}\n")
        try:
            with open(path, "wb") as file:
                file.truncate(size)
            if shard in self.gates:
                assert self.gates[shard].wait(LONG)
            time.sleep(self._delay)
            if self.failures.get(shard):
                self._broken_off(self.failures[shard].pop(0))
            path.write_bytes(content(shard, size))
        finally:
            self.underway.remove(shard)

    def _broken_off(self, error: Exception) -> None:
        raise error


@contextlib.contextmanager
def cached(
    bucket: FakeBucket,
    folder: Path,
    max_bytes: int = 10**9,
    ahead: int = 4,
    fetchers: int = 8,
    patience: float = disk.PATIENCE,
) -> Iterator[ShardCache]:
    """A cache that waits for so many seconds for space and what others fetch, but for the folder as long as ever."""
    settings = Cache(str(folder), max_bytes, ahead, fetchers)
    with contextlib.ExitStack() as opened:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "PATIENCE", patience)
            cache = opened.enter_context(open_cache(bucket, bucket.pins, settings))
        yield cache


def one_after_another(*shards: int) -> Iterator[Need]:
    """A pass that reads one shard in each step."""
    return (Need(shard, step, step) for step, shard in enumerate(shards))


def read(files: ShardFiles, shard: Shard) -> bytes:
    with files.open(shard) as file:
        return file.read()


def assert_read(files: ShardFiles, shards: Sequence[Shard], *numbers: int) -> None:
    for number in numbers:
        assert read(files, shards[number]) == content(number, shards[number].bytes), number


def read_through(cache: ShardCache, shards: Sequence[Shard]) -> None:
    """One shard after another."""
    with cache.follow(shards, one_after_another(*range(len(shards)))) as files:
        for step in range(len(shards)):
            files.reach(step)
            assert_read(files, shards, step)


def read_at_random(cache: ShardCache, shards: Sequence[Shard], steps: int, seed: int) -> None:
    """Three shards at a time, of which one changes in each step."""
    chance = random.Random(seed)
    drawn = [chance.randrange(len(shards)) for _ in range(steps + 2)]
    needs = (Need(shard, max(step - 2, 0), min(step, steps - 1)) for step, shard in enumerate(drawn))
    with cache.follow(shards, needs) as files:
        for step in range(steps):
            files.reach(step)
            assert_read(files, shards, *chance.sample(drawn[step : step + 3], 3))


class Background:
    """Work in a thread of its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def is_waiting(self) -> bool:
        """Whether it waits for what another thread has to do."""
        return _is_waiting(self._thread)

    def finish(self) -> None:
        """Wait for its end, and raise what it raised."""
        self._thread.join(LONG)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error


def together(*work: Callable[[], None]) -> None:
    """Do all of it at a time, and raise what any of it raises."""
    for part in [Background(part) for part in work]:
        part.finish()


EARLIER: set[threading.Thread] = set()
"""Threads that fetch, or end, for a test before this one."""


def fetchers() -> list[threading.Thread]:
    """The threads that fetch, of all caches of this test."""
    return [thread for thread in threading.enumerate() if thread.name == "fetcher" and thread not in EARLIER]


def fetchers_wait() -> bool:
    """Whether all threads that fetch wait, for work if no fetch is held up and none looks for space."""
    return all(map(_is_waiting, fetchers()))


def _is_waiting(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONG
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.002)
    return holds()


def stays(holds: Callable[[], bool], seconds: float = 0.1) -> bool:
    """Whether something holds for longer than the cache needs to act."""
    end = time.monotonic() + seconds
    while holds() and time.monotonic() < end:
        time.sleep(0.002)
    return holds()


def entry(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.crc32c}-{shard.bytes}-{shard.name}"


def there(folder: Path, shards: Sequence[Shard]) -> list[int]:
    """The shards that lie in the folder whole."""
    return [number for number, shard in enumerate(shards) if entry(folder, shard).exists()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != disk.LOCK)


def bytes_in(folder: Path) -> int:
    """What all files there take, while none comes or goes."""
    with open(folder / disk.LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(map(_size, folder.iterdir()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the empty file of a lock, or what a failed fetch left
        return 0


@contextlib.contextmanager
def watched(folder: Path, limit: int) -> Iterator[None]:
    """Look at the folder all the time, and see that it never holds more than the limit."""
    seen, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            seen.append(bytes_in(folder))

    (folder / disk.LOCK).touch()
    watcher = Background(look)
    try:
        yield
    finally:
        over.set()
        watcher.finish()
    assert max(seen) <= limit
