"""Shards that are fetched ahead of the passes that read them, by threads of their own."""

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from catdog.data.cache import disk
from catdog.data.cache.disk import DiskCache, hold, identity, is_linked, mark_used, mark_wanted
from catdog.data.cache.lookahead import Lookahead
from catdog.data.cache.required_size import require_limit
from catdog.data.cache.shard_state import CachedShard, Failed, Fetching, Held, Idle, Seeking
from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.errors import CallerError, RunError, naming
from catdog.recipe import Cache
from catdog.storage import Bucket, Stat, crc32c

_POLL = 0.05
"""Seconds between two looks at what other processes do."""
_REST = 0.25
"""Seconds without prefetches after one that found no space."""
_REST_AFTER_FAILURE = 5.0
"""Seconds without prefetches after one that failed."""


class Closed(Exception):
    """The cache brings nothing more."""


class FetchedShards:
    """Shards that are fetched by threads of their own, for passes that tell what they need and when.

    A shard is needed now by a pass that is at a step which reads it, and while someone waits in `open`: then it is held,
    by a shared lock on its file. It is wanted later if it is among the next needs of a pass.
    """

    def __init__(self, bucket: Bucket, pins: Mapping[str, Stat], settings: Cache, disk_cache: DiskCache) -> None:
        self._bucket = bucket
        self._settings = settings
        self._disk = disk_cache
        self._patience = max(disk.PATIENCE, bucket.patience)  # others may wait for the same store
        self._shards = {
            name: CachedShard(name, pin, disk_cache.path(name, pin.size, pin.crc32c)) for name, pin in pins.items()
        }
        self._changed = threading.Condition()  # guards all that follows, and what changes in a shard
        self._closed = False
        self._passes: list[_Pass] = []
        self._openers: list[CachedShard] = []  # what each caller that waits in `open` waits for, first come first
        self._now: list[CachedShard] = []
        self._later: list[CachedShard] = []
        self._live: list[CachedShard] = []  # what is wanted or in hand; all others are idle and not marked
        self._rest_until = 0.0
        for _ in range(settings.fetchers):
            threading.Thread(target=self._work, name="fetcher", daemon=True).start()

    @contextlib.contextmanager
    def follow(self, shards: Sequence[Shard], needs: Iterator[Need]) -> Iterator["_Pass"]:
        files = _Pass(self, shards, Lookahead(needs, self._settings.ahead))
        try:
            with self._changed:
                self._passes.append(files)
                self._settle()
            yield files
        finally:
            with self._changed:
                self._passes = [other for other in self._passes if other is not files]
                # It would hide what ends the pass.
                with contextlib.suppress(OSError, CallerError):
                    self._settle()

    def move(self, files: "_Pass", now: Sequence[str], later: Sequence[str]) -> None:
        """Tell what a pass needs now and what it wants later, by first step."""
        with self._changed:
            files.now, files.later = now, later
            self._settle()

    def open(self, name: str) -> BinaryIO:
        """A shard's file; waits until it is there, which is bounded by a fetch and patience, and raises what failed."""
        shard = self._shards[name]
        if file := _opened(shard):
            return file
        with self._changed:
            self._openers.append(shard)
            try:
                if isinstance(shard.state, Failed) and shard.state.told:
                    shard.become(Idle())
                self._settle()
                while not (isinstance(shard.state, Held) and (file := _opened(shard))):
                    if isinstance(shard.state, Held):  # its file was taken away
                        shard.become(Idle())
                        self._settle()
                        continue
                    if self._closed:
                        raise Closed
                    if isinstance(shard.state, Failed):
                        error = shard.state.error
                        shard.become(Failed(error, told=True))
                        raise error
                    self._changed.wait()
                return file
            finally:
                self._openers.remove(shard)
                self._settle()

    def close(self) -> None:
        """Let go of everything; who waits for a shard gets Closed. A fetch in hand is given up at its next byte or attempt."""
        with self._changed:
            self._closed = True
            self._passes = []
            self._settle()

    def _settle(self) -> None:
        """Bring what is wanted up to date, and each shard with it; wake who waits for a change."""
        self._changed.notify_all()  # at first, for what follows may fail
        self._now, self._later = self._wanted()
        now, wanted = set(self._now), {*self._now, *self._later}
        self._live = list(dict.fromkeys([*self._now, *self._later, *self._live]))
        for shard in self._live:
            _adjust(shard, shard in now, shard in wanted)
        self._live = [shard for shard in self._live if shard in wanted or shard.in_hand]

    def _wanted(self) -> tuple[list[CachedShard], list[CachedShard]]:
        """What is needed now and what is wanted later, the most urgent first."""
        needed = [self._shards[name] for files in self._passes for name in files.now]
        now = dict.fromkeys([*self._openers, *needed])
        in_turns = itertools.zip_longest(*(files.later for files in self._passes))
        later = dict.fromkeys(self._shards[name] for turn in in_turns for name in turn if name is not None)
        return list(now), [shard for shard in later if shard not in now]

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            shard, urgent = job
            try:
                held = self._bring(shard, urgent)
            except BaseException as error:
                self._fail(shard, error, urgent)
            else:
                self._done(shard, held)

    def _next_job(self) -> tuple[CachedShard, bool] | None:
        """A shard to bring and whether it is needed now; None at the end."""
        with self._changed:
            while not self._closed:
                rest = self._rest_until - time.monotonic()
                if job := self._choose(resting=rest > 0):
                    job[0].become(Seeking())
                    return job
                self._changed.wait(rest if rest > 0 else None)
            return None

    def _choose(self, resting: bool) -> tuple[CachedShard, bool] | None:
        for shard in self._now:
            if isinstance(shard.state, Idle):
                return shard, True
        # Space is given in the order of the needs: nothing is fetched ahead while what came before still has none.
        if resting or any(isinstance(shard.state, Seeking) for shard in self._live):
            return None
        for shard in self._later:
            if isinstance(shard.state, Idle) and not (shard.marked and shard.verified):
                return shard, False
        return None

    def _done(self, shard: CachedShard, held: BinaryIO | None) -> None:
        with self._changed:
            if held is None:
                shard.become(Idle())
                self._rest_until = time.monotonic() + _REST
            else:
                shard.become(Held(held))
                shard.verified = identity(held)
            # What is wrong with another shard's file is raised again in the thread of a pass; this one has to go on.
            with contextlib.suppress(OSError, CallerError):
                self._settle()

    def _fail(self, shard: CachedShard, error: BaseException, urgent: bool) -> None:
        """Keep what was raised for whoever opens the shard; what was wanted later only is tried again when it is needed."""
        with self._changed:
            if not urgent:
                self._rest_until = time.monotonic() + _REST_AFTER_FAILURE
            is_wanted = shard in self._now or shard in self._later
            shard.become(Failed(error) if urgent and is_wanted else Idle())
            self._changed.notify_all()

    def _bring(self, shard: CachedShard, urgent: bool) -> BinaryIO | None:
        """A shard's file, held; None when it can't be had at once and is not, or no longer, needed now."""
        patient_since = time.monotonic()
        require_limit(self._settings, shard.pin.size)
        while not self._closed:
            if held := hold(shard.path):
                if _is_whole(shard, held):
                    return held
                self._disk.discard(shard.path, held)
            elif reservation := self._disk.reserve(shard.path, shard.pin.size, urgent):
                return self._fetch(shard, reservation, urgent)
            elif not urgent:
                return None
            elif self._is_fetching() or self._disk.is_growing(shard.path):
                patient_since = time.monotonic()
            elif time.monotonic() - patient_since > self._patience:
                raise self._starved(shard)
            with self._changed:
                if urgent and shard not in self._now:
                    return None
                self._changed.wait(_POLL)
        return None

    def _fetch(self, shard: CachedShard, reservation: BinaryIO, urgent: bool) -> BinaryIO:
        """Fetch a shard; on a disk that is full below the cache's limit, once what nobody uses has made room for it."""
        with self._changed:
            shard.become(Fetching())
            self._changed.notify_all()
        part = self._disk.part(shard.path)
        try:
            while True:
                try:
                    with naming(part):
                        self._bucket.fetch(shard.name, shard.pin, part, self._require_open)
                        return self._disk.complete(shard.path)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room(shard, part, urgent):
                        raise
        finally:
            self._disk.release(shard.path, reservation)

    def _make_room(self, shard: CachedShard, part: Path, urgent: bool) -> bool:
        """Whether there may be room on a full disk by now: something could be evicted, or else every other fetch has ended."""
        part.unlink(missing_ok=True)  # which may be all that another fetch lacks
        with self._changed:
            shard.become(Seeking())
            self._changed.notify_all()
        waited = False
        while not self._disk.evict(shard.pin.size, urgent):
            if not (urgent and self._is_fetching()):
                if waited:
                    break
                return False
            waited = True
            with self._changed:
                self._changed.wait(_POLL)
            self._require_open(0)
        with self._changed:
            shard.become(Fetching())
        return True

    def _require_open(self, count: int) -> None:
        if self._closed:
            raise Closed

    def _is_fetching(self) -> bool:
        with self._changed:
            return any(isinstance(shard.state, Fetching) for shard in self._live)

    def _starved(self, shard: CachedShard) -> RunError:
        with self._changed:
            ours = {other.path for other in self._live if other.in_hand or isinstance(other.state, Held)}
        in_use = self._disk.in_use().items()
        here, elsewhere = (
            _named({path: size for path, size in in_use if (path in ours) == own}) for own in (True, False)
        )
        return RunError(
            f"{shard.path}: waited {self._patience:.0f} s for other processes that use or fetch {elsewhere}, and this"
            f" one {here}, of cache.max_bytes = {self._settings.max_bytes}"
        )


class _Pass:
    """One pass over shards, which tells the cache what it needs as it moves on."""

    def __init__(self, cache: FetchedShards, shards: Sequence[Shard], lookahead: Lookahead) -> None:
        self._cache = cache
        self._names = [shard.name for shard in shards]
        self._lookahead = lookahead
        self.now: Sequence[str] = ()
        self.later: Sequence[str] = self._named(lookahead.later)

    def reach(self, step: int) -> None:
        if self._lookahead.reach(step):
            self._cache.move(self, self._named(self._lookahead.now), self._named(self._lookahead.later))

    def open(self, shard: Shard) -> BinaryIO:
        return self._cache.open(shard.name)

    def _named(self, shards: Sequence[int]) -> list[str]:
        return [self._names[shard] for shard in shards]


def _adjust(shard: CachedShard, needed_now: bool, wanted: bool) -> None:
    """Mark a shard if it is wanted, hold it if it is needed now and there, and let go of it otherwise."""
    if wanted:
        shard.marked = mark_wanted(shard.path)
    elif shard.marked or isinstance(shard.state, Held):
        mark_used(shard.path)
        shard.marked = False
    match shard.state:
        case Held(file) if not (needed_now and is_linked(file) and identity(file) == shard.verified):
            shard.become(Idle())
        case Failed() if not wanted:
            shard.become(Idle())
    may_hold = needed_now and shard.marked and shard.verified and isinstance(shard.state, Idle | Failed)
    if may_hold and (held := hold(shard.path)):
        if identity(held) == shard.verified:
            shard.become(Held(held))
        else:  # another process has brought it, and a fetcher has to look at it
            held.close()
            shard.become(Idle())


def _opened(shard: CachedShard) -> BinaryIO | None:
    """A shard's file, open for reading; None unless it is there and is the one that was verified."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
        file = closing.enter_context(open(shard.path, "rb"))
        if identity(file) == shard.verified:
            closing.pop_all()
            return file
    return None


def _is_whole(shard: CachedShard, held: BinaryIO) -> bool:
    """Whether a file that was found has the right bytes, and still is the shard's."""
    if identity(held) != shard.verified:
        size = os.fstat(held.fileno()).st_size
        if (size, crc32c(Path(shard.path))) != (shard.pin.size, shard.pin.crc32c):
            return False
    return is_linked(held)


def _named(sizes: Mapping[str, int]) -> str:
    return f"{sum(sizes.values())} bytes ({', '.join(map(os.path.basename, sizes)) or 'nothing'})"
