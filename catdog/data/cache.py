"""Shards' files on this machine's disk: read where they lie, or fetched ahead into a folder of bounded size.

Processes may share that folder. An entry is named by its content, `CRC32C-SIZE-SHARD`, and counts at its full size from
before its first byte: `ENTRY.part` is on its way, and whoever fetches it keeps `ENTRY.lock` locked. A shared lock on an
entry says that it is in use, a time of modification in the future that it was fetched for later, one in the past when it
was last used. The kernel drops the locks of a process that dies, so no state outlives it but files.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.errors import CallerError, RunError
from catdog.recipe import Cache
from catdog.storage import Bucket, Stat, crc32c

PATIENCE = 120.0
"""Seconds of waiting for room that other processes hold, or for a fetch of theirs that does not move."""
_FOR_LATER = 600.0
"""Seconds for which no prefetch evicts what was fetched for later; counted anew each time a pass moves on."""
_POLL = 0.05
"""Seconds between two looks at what other processes do."""
_REST = 0.25
"""Seconds without prefetches after one that found no room."""

_ENTRY = re.compile(r"([0-9a-f]{8}-(\d+)-.+\.tfrecord)(\.part|\.lock)?")
_PART, _LOCK = ".part", ".lock"


_DEFAULT = Cache()


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


@contextlib.contextmanager
def open_cache(bucket: Bucket, pins: Mapping[str, Stat], settings: Cache = _DEFAULT) -> Iterator[ShardCache]:
    """The shards of a bucket, each as its pin tells; a folder's are read where they lie, others are fetched ahead.

    Raises CallerError when the cache's folder can't be written.
    """
    if bucket.local("") is not None:
        yield _Folder(bucket)
        return
    cache = _Fetched(bucket, pins, settings)
    try:
        yield cache
    finally:
        cache.close()


def required_bytes(
    streams: Iterable[Sequence[Shard]], rows: int | None, others: Sequence[Shard], other_rows: int
) -> int:
    """Bytes that must be held at once by a worker that trains on some streams and evaluates on other shards.

    A step reads `rows` records in a row of each stream, whose shards come in any order, or, for None, records from
    anywhere in it; and evaluation `other_rows` in a row of the others.
    """
    return sum(_most_at_once(shards, rows) for shards in streams) + _most_at_once(others, other_rows)


def require_room(settings: Cache, needed: int) -> None:
    """Raise CallerError when the limit is below the bytes that must be held at once."""
    if settings.max_bytes < needed:
        raise CallerError(
            f"cache.max_bytes = {settings.max_bytes}: too small for the shards that are read at once;"
            f" must be at least {needed}"
        )


def _most_at_once(shards: Sequence[Shard], rows: int | None) -> int:
    sizes = sorted((shard.bytes for shard in shards if shard.examples), reverse=True)
    if rows is None or not sizes:
        return sum(sizes)
    # Records in a row lie in one shard, or in the end of one, the whole of some and the start of one.
    whole = np.cumsum(sorted(shard.examples for shard in shards if shard.examples))
    return sum(sizes[: 1 if rows < 2 else 2 + int(np.searchsorted(whole, rows - 2, side="right"))])


def _made(settings: Cache) -> Path:
    """The cache's folder, which is there and can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(settings.folder or f"{home}/catdog").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LOCK).touch()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise CallerError(f"cache.folder = {str(folder)!r}: cannot be written: {error.strerror}") from None
    return folder


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


class _Fetched:
    """Shards that are fetched by threads of their own, for passes that tell what they need and when.

    A shard is needed now by a pass that is at a step which reads it, and while someone waits in `open`: then it is held,
    by a shared lock on its entry. It is wanted later if it is among the next needs of a pass.
    """

    def __init__(self, bucket: Bucket, pins: Mapping[str, Stat], settings: Cache) -> None:
        self._bucket = bucket
        self._pins = pins
        self._settings = settings
        self._disk = _Disk(_made(settings), settings.max_bytes)
        folder = self._disk.folder
        self._paths = {name: f"{folder}/{pin.crc32c}-{pin.size}-{name}" for name, pin in pins.items()}
        self._checked: set[str] = set()  # what was found whole, or fetched, at least once
        self._changed = threading.Condition()  # guards all that follows
        self._closed = False
        self._passes: list[_Pass] = []
        self._openers: Counter[str] = Counter()
        self._held: dict[str, BinaryIO] = {}
        self._marked: set[str] = set()  # wanted, and there
        self._busy: set[str] = set()  # in the hands of a fetcher
        self._fetching: set[str] = set()  # of these, those that have their room
        self._failed: dict[str, BaseException] = {}
        self._rest_until = 0.0
        for _ in range(settings.fetchers):
            threading.Thread(target=self._work, name="fetcher", daemon=True).start()

    @contextlib.contextmanager
    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> Iterator["_Pass"]:
        files = _Pass(self, shards, needs, self._settings.ahead)
        try:
            with self._changed:
                self._passes.append(files)
                self._settle()
            yield files
        finally:
            with self._changed:
                self._passes = [other for other in self._passes if other is not files]
                self._settle()

    def move(self, files: "_Pass", now: Sequence[str], later: Sequence[str]) -> None:
        """Tell what a pass needs now and what it wants later, by first step."""
        with self._changed:
            files.now, files.later = now, later
            self._settle()

    def open(self, name: str) -> BinaryIO:
        """A shard's file; waits until it is there, which is bounded by a fetch and PATIENCE, and raises what failed."""
        if name in self._checked:
            with contextlib.suppress(FileNotFoundError):
                return open(self._paths[name], "rb")
        with self._changed:
            self._openers[name] += 1
            try:
                self._settle()
                while name not in self._held:
                    if self._closed:
                        raise RuntimeError("the cache is closed")
                    if name in self._failed:
                        raise self._failed.pop(name)
                    self._changed.wait()
                return open(self._paths[name], "rb")
            finally:
                self._openers -= Counter([name])
                self._settle()

    def close(self) -> None:
        """Let go of everything. A fetch in hand is ended by its thread, which then ends too."""
        with self._changed:
            self._closed = True
            self._passes = []
            self._settle()

    def _wanted(self) -> tuple[list[str], list[str]]:
        """What is needed now and what is wanted later, the most urgent first."""
        now = dict.fromkeys([*self._openers, *(name for files in self._passes for name in files.now)])
        in_turns = itertools.zip_longest(*(files.later for files in self._passes))
        later = dict.fromkeys(name for turn in in_turns for name in turn if name is not None and name not in now)
        return list(now), list(later)

    def _settle(self) -> None:
        """Mark what is wanted, hold what is needed now, let go of the rest, and wake who waits for a change."""
        now, later = self._wanted()
        before = self._held.keys() | self._marked
        self._marked = {name for name in [*now, *later] if _touch(self._paths[name], _FOR_LATER)}
        for name in before.difference(now, later):
            _touch(self._paths[name], 0)
        for name, file in list(self._held.items()):
            if name not in now or not _is_linked(file):
                self._held.pop(name).close()
        for name in (self._marked & self._checked).intersection(now) - self._held.keys() - self._busy:
            if held := _locked(self._paths[name], fcntl.LOCK_SH):
                self._held[name] = held
        self._failed = {name: error for name, error in self._failed.items() if name in now or name in later}
        self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            name, urgent = job
            try:
                self._done(name, self._bring(name, urgent))
            except BaseException as error:
                self._fail(name, error)

    def _next_job(self) -> tuple[str, bool] | None:
        """A shard to bring and whether it is needed now; None at the end."""
        with self._changed:
            while not self._closed:
                job, rest = self._choose(), self._rest_until - time.monotonic()
                if job is not None:
                    self._busy.add(job[0])
                    return job
                self._changed.wait(rest if rest > 0 else None)
            return None

    def _choose(self) -> tuple[str, bool] | None:
        now, later = self._wanted()
        taken = self._busy | self._held.keys() | self._failed.keys()
        for name in now:
            if name not in taken:
                return name, True
        # Room is given in the order of the needs: nothing is fetched ahead while what came before still has none.
        if self._busy - self._fetching or time.monotonic() < self._rest_until:
            return None
        there = self._marked & self._checked
        return next(((name, False) for name in later if name not in taken | there), None)

    def _done(self, name: str, held: BinaryIO | None) -> None:
        with self._changed:
            self._busy.discard(name)
            self._fetching.discard(name)
            if held is None:
                self._rest_until = time.monotonic() + _REST
            else:
                self._checked.add(name)
                self._held[name] = held
            self._settle()

    def _fail(self, name: str, error: BaseException) -> None:
        """Keep what was raised for whoever opens the shard."""
        with self._changed:
            self._busy.discard(name)
            self._fetching.discard(name)
            self._failed[name] = error
            self._changed.notify_all()

    def _bring(self, name: str, urgent: bool) -> BinaryIO | None:
        """A shard's file, held; None when it is wanted only later and now there is no room or another fetches it."""
        path, size, patient_since = self._paths[name], self._pins[name].size, time.monotonic()
        require_room(self._settings, size)
        while not self._closed:
            if held := _locked(path, fcntl.LOCK_SH):
                if self._is_whole(name, held):
                    return held
                self._disk.discard(path, held)
            elif ticket := self._disk.reserve(path, size, urgent):
                return self._fetch(name, ticket)
            elif not urgent:
                return None
            elif self._fetching or self._disk.is_moving(path):
                patient_since = time.monotonic()
            elif time.monotonic() - patient_since > PATIENCE:
                raise self._starved(name)
            with self._changed:
                self._changed.wait(_POLL)
        return None

    def _is_whole(self, name: str, held: BinaryIO) -> bool:
        """Whether an entry that was found has the right bytes, and still is the entry."""
        pin, size = self._pins[name], os.fstat(held.fileno()).st_size
        if name not in self._checked and (size, crc32c(Path(self._paths[name]))) != (pin.size, pin.crc32c):
            return False
        return _is_linked(held)

    def _fetch(self, name: str, ticket: BinaryIO) -> BinaryIO:
        with self._changed:
            self._fetching.add(name)
            self._changed.notify_all()
        path = self._paths[name]
        try:
            self._bucket.fetch(name, self._pins[name], Path(path + _PART))
            return self._disk.complete(path)
        finally:
            self._disk.give_up(path, ticket)

    def _starved(self, name: str) -> RunError:
        with self._changed:
            ours = {self._paths[other] for other in (*self._held, *self._busy)}
        in_use = self._disk.in_use().items()
        here, elsewhere = (
            _told({path: size for path, size in in_use if (path in ours) == own}) for own in (True, False)
        )
        return RunError(
            f"{self._paths[name]}: waited {PATIENCE:.0f} s for other processes that use or fetch {elsewhere}, and this"
            f" one {here}, of cache.max_bytes = {self._settings.max_bytes}"
        )


class _Pass:
    """One pass over shards, whose needs are taken in no faster than they are reached."""

    now: Sequence[str] = ()
    later: Sequence[str] = ()

    def __init__(self, cache: _Fetched, shards: Sequence[Shard], needs: Iterator[Need], ahead: int) -> None:
        self._cache = cache
        self._names = [shard.name for shard in shards]
        self._needs = needs
        self._ahead = ahead
        self._current: list[Need] = []
        self._coming: deque[Need] = deque()
        self._take_in()
        self.later = self._named(self._coming)[:ahead]

    def reach(self, step: int) -> None:
        begins = bool(self._coming) and self._coming[0].first <= step
        if begins or any(need.last < step for need in self._current):
            self._move(step)

    def open(self, shard: Shard) -> BinaryIO:
        return self._cache.open(shard.name)

    def _move(self, step: int) -> None:
        while self._coming and self._coming[0].first <= step:
            self._current.append(self._coming.popleft())
            self._take_in()
        self._current = [need for need in self._current if need.last >= step]
        self._cache.move(self, self._named(self._current), self._named(self._coming)[: self._ahead])

    def _take_in(self) -> None:
        # One need is known even if nothing is fetched ahead, or no step would be seen to begin it.
        missing = max(self._ahead, 1) - len(self._coming)
        self._coming.extend(itertools.islice(self._needs, missing))

    def _named(self, needs: Iterable[Need]) -> list[str]:
        return [self._names[need.shard] for need in needs]


class _Disk:
    """The entries in the cache's folder, as all processes see them.

    They come and go under the folder's lock only, but a shared lock that keeps one there may be taken without it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        with self._changing():
            for path, size in self._sizes().items():
                if os.path.exists(path) and os.path.getsize(path) != size:
                    _evict(path)
            self._make_room(0, self._sizes(), urgent=True)

    def reserve(self, path: str, size: int, urgent: bool) -> BinaryIO | None:
        """A ticket to fetch an entry; None when it is there or fetched by another process, or there is no room."""
        with self._changing():
            sizes = self._sizes()
            if path in sizes or not self._make_room(size, sizes, urgent):
                return None
            Path(path + _LOCK).touch()
            return _locked(path + _LOCK, fcntl.LOCK_EX)

    def complete(self, path: str) -> BinaryIO:
        """Turn what was fetched into the entry, held."""
        with self._changing():
            # No fsync: what a crash of the machine leaves is checked before it is used.
            os.replace(path + _PART, path)
            held = _locked(path, fcntl.LOCK_SH)
            assert held is not None
            return held

    def give_up(self, path: str, ticket: BinaryIO) -> None:
        """Take away what is left of a fetch."""
        with ticket:
            _unlink(path + _PART)
            _unlink(path + _LOCK)

    def discard(self, path: str, broken: BinaryIO) -> None:
        """Delete an entry, if it still is the file that was found broken."""
        with broken, self._changing():
            if os.path.exists(path) and os.path.samestat(os.fstat(broken.fileno()), os.stat(path)):
                _unlink(path)

    def is_moving(self, path: str) -> bool:
        """Whether an entry on its way grew within the last second."""
        return _modified(path + _PART) > time.time() - 1

    def in_use(self) -> dict[str, int]:
        """The size of each entry that is held or on its way."""
        with self._changing():
            return {path: size for path, size in self._sizes().items() if _is_in_use(path) or _is_in_use(path + _LOCK)}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the folder, for moments only; raises RunError when another process does not let go of it."""
        deadline = time.monotonic() + PATIENCE
        with open(self.folder / _LOCK, "ab") as lock:
            while not _lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise RunError(f"{lock.name}: another process has had it locked for {PATIENCE:.0f} s")
                time.sleep(0.002)
            yield

    def _sizes(self) -> dict[str, int]:
        """The size of each entry, there or on its way; deletes what killed processes left on its way."""
        sizes = {}
        for found in filter(None, map(_ENTRY.fullmatch, os.listdir(self.folder))):
            path = f"{self.folder}/{found[1]}"
            if found[3] and not _is_in_use(path + _LOCK):
                _unlink(path + found[3])
            else:
                sizes[path] = int(found[2])
        return sizes

    def _make_room(self, size: int, sizes: dict[str, int], urgent: bool) -> bool:
        """Evict the least useful entries, if that makes room; only what is urgent takes the place of what is for later."""
        excess = sum(sizes.values()) + size - self._max_bytes
        victims: list[str] = []
        for path in _by_usefulness(sizes, urgent) if excess > 0 else ():
            if excess > 0 and not _is_in_use(path):
                victims.append(path)
                excess -= sizes[path]
        return excess <= 0 and all(_evict(path) for path in victims)


def _by_usefulness(paths: Iterable[str], for_later_too: bool) -> list[str]:
    """The files that are there, the least recently used first, then those for later, the last wanted first."""
    now, times = time.time(), {path: _modified(path) for path in paths}
    used = sorted((path for path, when in times.items() if 0 < when <= now), key=times.__getitem__)
    later = sorted((path for path, when in times.items() if when > now), key=times.__getitem__, reverse=True)
    return used + later if for_later_too else used


def _locked(path: str, kind: int) -> BinaryIO | None:
    """A file, open and locked; None if it is not there or someone's lock forbids it."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
        file = closing.enter_context(open(path, "r+b"))  # NFS grants no exclusive lock to a mere reader
        if _lock(file, kind) and _is_linked(file):
            closing.pop_all()
            return file
    return None


def _lock(file: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_linked(file: BinaryIO) -> bool:
    return os.fstat(file.fileno()).st_nlink > 0


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


def _told(sizes: Mapping[str, int]) -> str:
    return f"{sum(sizes.values())} bytes ({', '.join(map(os.path.basename, sizes)) or 'nothing'})"
