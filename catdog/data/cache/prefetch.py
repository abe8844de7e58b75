"""Shards that are fetched ahead of the passes that read them, by threads of their own."""

import contextlib
import fcntl
import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from catdog.data.cache import disk
from catdog.data.cache.disk import Entries, is_linked, locked, touch
from catdog.data.cache.limit import require_limit
from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.errors import RunError
from catdog.recipe import Cache
from catdog.storage import Bucket, Stat, crc32c

_FOR_LATER = 600.0
"""Seconds for which no prefetch evicts what was fetched for later; counted anew each time a pass moves on."""
_POLL = 0.05
"""Seconds between two looks at what other processes do."""
_REST = 0.25
"""Seconds without prefetches after one that found no room."""
_REST_AFTER_FAILURE = 5.0
"""Seconds without prefetches after one that failed."""


class Closed(Exception):
    """The cache brings nothing more."""


class FetchedShards:
    """Shards that are fetched by threads of their own, for passes that tell what they need and when.

    A shard is needed now by a pass that is at a step which reads it, and while someone waits in `open`: then it is held,
    by a shared lock on its entry. It is wanted later if it is among the next needs of a pass.
    """

    def __init__(self, bucket: Bucket, pins: Mapping[str, Stat], settings: Cache, entries: Entries) -> None:
        self._bucket = bucket
        self._pins = pins
        self._settings = settings
        self._disk = entries
        self._patience = max(disk.PATIENCE, bucket.patience)  # others may wait for the same store
        self._paths = {name: entries.path(name, pin) for name, pin in pins.items()}
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
        self._told: set[str] = set()  # of these, those that are tried again only when they are asked for again
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
        """A shard's file; waits until it is there, which is bounded by a fetch and patience, and raises what failed."""
        if name in self._checked:
            with contextlib.suppress(FileNotFoundError):
                return open(self._paths[name], "rb")
        with self._changed:
            self._openers[name] += 1
            try:
                if name in self._told:
                    del self._failed[name]
                self._settle()
                while name not in self._held:
                    if self._closed:
                        raise Closed
                    if name in self._failed:
                        self._told.add(name)
                        raise self._failed[name]
                    self._changed.wait()
                return open(self._paths[name], "rb")
            finally:
                self._openers -= Counter([name])
                self._settle()

    def close(self) -> None:
        """Let go of everything; who waits for a shard gets Closed. A fetch in hand is given up at its next byte or attempt."""
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
        self._marked = {name for name in [*now, *later] if touch(self._paths[name], _FOR_LATER)}
        for name in before.difference(now, later):
            touch(self._paths[name], 0)
        for name, file in list(self._held.items()):
            if name not in now or not is_linked(file):
                self._held.pop(name).close()
        for name in (self._marked & self._checked).intersection(now) - self._held.keys() - self._busy:
            if held := locked(self._paths[name], fcntl.LOCK_SH):
                self._held[name] = held
        self._failed = {name: error for name, error in self._failed.items() if name in now or name in later}
        self._told &= self._failed.keys()
        self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            name, urgent = job
            try:
                self._done(name, self._bring(name, urgent))
            except BaseException as error:
                self._fail(name, error, urgent)

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

    def _fail(self, name: str, error: BaseException, urgent: bool) -> None:
        """Keep what was raised for whoever opens the shard; what was wanted later only is tried again when it is needed."""
        with self._changed:
            self._busy.discard(name)
            self._fetching.discard(name)
            if urgent:
                self._failed[name] = error
            else:
                self._rest_until = time.monotonic() + _REST_AFTER_FAILURE
            self._changed.notify_all()

    def _bring(self, name: str, urgent: bool) -> BinaryIO | None:
        """A shard's file, held; None when it is wanted only later and now there is no room or another fetches it."""
        path, size, patient_since = self._paths[name], self._pins[name].size, time.monotonic()
        require_limit(self._settings, size)
        while not self._closed:
            if held := locked(path, fcntl.LOCK_SH):
                if self._is_whole(name, held):
                    return held
                self._disk.discard(path, held)
            elif ticket := self._disk.reserve(path, size, urgent):
                return self._fetch(name, ticket)
            elif not urgent:
                return None
            elif self._fetching or self._disk.is_moving(path):
                patient_since = time.monotonic()
            elif time.monotonic() - patient_since > self._patience:
                raise self._starved(name)
            with self._changed:
                self._changed.wait(_POLL)
        return None

    def _is_whole(self, name: str, held: BinaryIO) -> bool:
        """Whether an entry that was found has the right bytes, and still is the entry."""
        pin, size = self._pins[name], os.fstat(held.fileno()).st_size
        if name not in self._checked and (size, crc32c(Path(self._paths[name]))) != (pin.size, pin.crc32c):
            return False
        return is_linked(held)

    def _fetch(self, name: str, ticket: BinaryIO) -> BinaryIO:
        with self._changed:
            self._fetching.add(name)
            self._changed.notify_all()
        path = self._paths[name]
        try:
            self._bucket.fetch(name, self._pins[name], self._disk.part(path), self._require_open)
            return self._disk.complete(path)
        finally:
            self._disk.give_up(path, ticket)

    def _require_open(self, count: int) -> None:
        if self._closed:
            raise Closed

    def _starved(self, name: str) -> RunError:
        with self._changed:
            ours = {self._paths[other] for other in (*self._held, *self._busy)}
        in_use = self._disk.in_use().items()
        here, elsewhere = (
            _named({path: size for path, size in in_use if (path in ours) == own}) for own in (True, False)
        )
        return RunError(
            f"{self._paths[name]}: waited {self._patience:.0f} s for other processes that use or fetch {elsewhere}, and this"
            f" one {here}, of cache.max_bytes = {self._settings.max_bytes}"
        )


class _Pass:
    """One pass over shards, whose needs are taken in no faster than they are reached."""

    now: Sequence[str] = ()
    later: Sequence[str] = ()

    def __init__(self, cache: FetchedShards, shards: Sequence[Shard], needs: Iterator[Need], ahead: int) -> None:
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


def _named(sizes: Mapping[str, int]) -> str:
    return f"{sum(sizes.values())} bytes ({', '.join(map(os.path.basename, sizes)) or 'nothing'})"
