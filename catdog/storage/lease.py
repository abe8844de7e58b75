"""The lease of a run or a data set: an object that tells which process writes it, renewed for as long as that lives."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from catdog.errors import CallerError, HeldError, RunError, one_line
from catdog.parsing import SMALL, entry, parse_json
from catdog.storage.bucket import Bucket, Changed, Stat, TooLarge

SECONDS = 30.0
"""A lease that was not renewed for this long has run out; it is renewed three times as often."""
_PARTING = 2.0
"""Seconds that a release may take: a lease that was not released runs out by itself."""


@dataclass(frozen=True)
class Work:
    """What a lease is held for, and the words that it is told in."""

    lease: str
    """Name of the object."""
    stays: bool
    """Whether the object is still there, marked as released, when the work is done."""
    what: str
    """What is worked on, as in `run`."""
    verb: str
    """What is done to it, as in `train`."""
    participle: str
    """The same as what has been done to it, as in `trained`."""
    instead: str
    """What whoever is refused may do."""


LEASE = "lease.json"
TRAINING = Work(LEASE, True, "run", "train", "trained", "stop that, or use another --run")


class Lease:
    """A lease in the hands of this process.

    No two processes have it at a time: each change of the object is made only if it still is as its holder left it.
    """

    def __init__(self, bucket: Bucket, work: Work, me: dict[str, Any], stat: Stat, taken: float) -> None:
        self._bucket = bucket
        self._work = work
        self._me = me
        self._stat = stat
        self._renewed = taken
        self._lost: RunError | None = None
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunError once it is known that the lease is lost."""
        if self._lost is not None:
            raise self._lost

    def require(self) -> None:
        """Wait until it is sure that the lease is held for a while; raises RunError when it is lost."""
        with self._changed:
            # The thread that renews ends only once the lease is lost or released, so this does not wait for ever.
            self._changed.wait_for(lambda: self._lost or _clock() - self._renewed < SECONDS * 2 / 3)
        self.check()

    def release(self) -> None:
        """Leave the work to whoever wants it next; while the store does not answer, the lease is left to run out."""
        self._ended.set()
        self._thread.join(_PARTING)
        if self._lost is None and not self._thread.is_alive():
            with contextlib.suppress(RunError, CallerError, OSError):
                bucket = replace(self._bucket, patience=_PARTING)
                if self._work.stays:
                    bucket.swap(self._work.lease, _content(self._me | {"released": True}), self._stat)
                elif _clock() - self._renewed < SECONDS * 2 / 3:  # until it has run out nobody else takes it
                    bucket.delete(self._work.lease)

    def _keep(self) -> None:
        renewals = 0
        while self._lost is None and not self._ended.wait(SECONDS / 3):
            renewals += 1  # a folder numbers no generations: only other bytes show that the lease was renewed
            began, lost = _clock(), None
            try:
                self._stat = self._bucket.swap(
                    self._work.lease, _content(self._me | {"renewals": renewals}), self._stat
                )
                self._renewed = began
            except Changed:
                lost = f"another process has taken this {self._work.what} over"
                with contextlib.suppress(Exception):
                    lost = self._taken_over()
            except Exception as error:
                if _clock() - self._renewed > SECONDS:
                    lost = f"the {self._work.what}'s lease could not be renewed: {one_line(error)}"
            with self._changed:
                self._lost = RunError(f"{self._bucket.uri}: {lost}") if lost else None
                self._changed.notify_all()

    def _taken_over(self) -> str | None:
        """Who has taken the lease over; None if what is there is a renewal of ours whose reply was lost."""
        found = self._bucket.stat(self._work.lease)  # before its holder is read, or it could be another's
        holder = _holder(self._bucket, self._work)
        if found is not None and holder.get("owner") == self._me["owner"]:
            self._stat = found
            return None
        return f"{_name(holder)} has taken this {self._work.what} over"


@contextlib.contextmanager
def hold(bucket: Bucket, say: Callable[[str], None], work: Work = TRAINING) -> Iterator[Lease]:
    """Have the lease of the run or data set in a bucket while the block lasts.

    It is taken at once where there is none, or its holder has released it or is a process of this machine that has
    ended; else only after it has not been renewed for as long as it lasts. Raises HeldError that names the process
    that does renew it, at once where that is seen to live on this machine.
    """
    me = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "machine": _machine(), "since": round(time.time())}
    me |= _process(os.getpid())
    lease = Lease(bucket, work, me, *_acquire(bucket, work, _content(me), say))
    try:
        yield lease
    finally:
        lease.release()


def held(bucket: Bucket, age: float) -> bool:
    """Whether a process trains a run whose lease was renewed `age` seconds ago, as far as one look at it tells.

    A lease that is far ahead of the clock tells no age, and is watched until it should have been renewed.
    """
    if age >= SECONDS or _free(_holder(bucket, TRAINING)):
        return False
    return age > -SECONDS or _is_renewed(bucket, TRAINING, SECONDS / 2)


def in_training(run: Bucket, say: Callable[[str], None]) -> bool:
    """Whether a process has a run, as its renewals show and no clock."""
    if run.stat(LEASE) is None or _free(holder := _holder(run, TRAINING)):
        return False
    if _lives(holder):
        return True
    say(_waiting(run, TRAINING, holder))
    return _is_renewed(run, TRAINING, SECONDS)


def is_lease(content: bytes) -> bool:
    """Whether an object's bytes are what a process of catdog has written to tell that it works there."""
    try:
        holder = parse_json(content)
    except ValueError:
        return False
    return isinstance(holder, dict) and {"owner", "host", "machine"} <= holder.keys()


def wait_until_free(bucket: Bucket, say: Callable[[str], None], work: Work = TRAINING) -> Stat | None:
    """The lease's object, if there is one, once it may be taken; raises HeldError as `hold` does."""
    seen = bucket.stat(work.lease)
    if seen is not None and not _free(holder := _holder(bucket, work)):
        if _lives(holder):
            raise HeldError(_refusal(bucket, work, holder))
        say(_waiting(bucket, work, holder))
        seen = _waited_for(bucket, work, seen)
    return seen


def _acquire(bucket: Bucket, work: Work, content: bytes, say: Callable[[str], None]) -> tuple[Stat, float]:
    """The lease's object once it is ours, and since when it may be."""
    seen, began = wait_until_free(bucket, say, work), _clock()
    try:
        return bucket.swap(work.lease, content, seen), began
    except Changed:
        name = _name(_holder(bucket, work))
        raise HeldError(f"{bucket.uri}: {name} has begun to {work.verb} it just now") from None


def _waited_for(bucket: Bucket, work: Work, seen: Stat) -> Stat | None:
    """The lease once it has run out or is free; raises HeldError as soon as it is renewed."""
    began, now = time.monotonic(), bucket.stat(work.lease)
    while now == seen and time.monotonic() - began < SECONDS:
        time.sleep(SECONDS / 30)
        now = bucket.stat(work.lease)
    if now != seen and now is not None and not _free(holder := _holder(bucket, work)):
        raise HeldError(_refusal(bucket, work, holder))
    return now


def _is_renewed(bucket: Bucket, work: Work, seconds: float) -> bool:
    """Whether someone else renews the lease within so many seconds, for which it is watched."""
    seen, began = bucket.stat(work.lease), time.monotonic()
    while (now := bucket.stat(work.lease)) == seen:
        if time.monotonic() - began > seconds:
            return False
        time.sleep(seconds / 30)
    return now is not None and not _free(_holder(bucket, work))


def _waiting(bucket: Bucket, work: Work, holder: dict[str, Any]) -> str:
    ahead = bucket.times(work.lease).get(work.lease, 0.0) - bucket.now()
    skew = f" (its lease is dated {ahead:.0f} s ahead of the clock here)" if ahead > SECONDS else ""
    return f"waiting up to {SECONDS:.0f} s: {_name(holder)} may still {work.verb} this {work.what}{skew}"


def _refusal(bucket: Bucket, work: Work, holder: dict[str, Any]) -> str:
    since = ""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, OSError):  # an earlier version tells none
        since = f" since {datetime.fromtimestamp(holder['since']).isoformat(' ', 'seconds')}"
    return f"{bucket.uri}: is being {work.participle} by {_name(holder)}{since}; {work.instead}"


def _free(holder: dict[str, Any]) -> bool:
    """Whether a holder needs no more waiting for: it has released its lease, or was a process here and has ended."""
    return bool(holder.get("released")) or (holder.get("machine") == _machine() and _has_ended(holder))


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder on this machine has ended, or its number is another process's now.

    Of another person's process the system may tell no more than that there is one: that is no sign of an end.
    """
    pid = holder.get("pid", 0)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the latter for a number that no process has
        return True
    except PermissionError:
        pass
    started, over = _look(pid)
    return over or (None not in (started, holder.get("started")) and started != holder["started"])


def _lives(holder: dict[str, Any]) -> bool:
    """Whether a holder is seen to live on this machine."""
    if holder.get("machine") != _machine():
        return False
    started, over = _look(holder.get("pid", 0))
    return not over and started is not None and started == holder.get("started")


def _holder(bucket: Bucket, work: Work) -> dict[str, Any]:
    """Who holds the lease as its object tells; nobody where it tells nothing, for catdog has not written that."""
    try:
        holder = parse_json(bucket.read(work.lease, SMALL))
        there = {"pid": 1, "host": "?"} | holder if isinstance(holder, dict) else {}
        if 0 < entry(there, "pid", int) < 2**31 and entry(there, "host", str):
            return holder
    except (FileNotFoundError, ValueError, TooLarge):
        pass
    return {"released": True}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _process(pid: int) -> dict[str, Any]:
    """A process by its number and, for numbers are used again, the time of its start."""
    started, _ = _look(pid)
    return {"pid": pid} if started is None else {"pid": pid, "started": started}


def _look(pid: int) -> tuple[float | None, bool]:
    """When a process started, None where that is hidden, and whether it is over but for its parent to be told."""
    if (ticks := _ticks(pid)) is not None:
        return ticks, _fields(pid)[:1] in ([b"Z"], [b"X"], [b"x"])
    try:
        process = psutil.Process(pid)
        over = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return process.create_time(), over
    except psutil.ZombieProcess:
        return None, True
    except psutil.Error:
        return None, False


def _ticks(pid: int) -> int | None:
    """When a process started, in ticks since the boot, which no change of the clock moves; None where none can tell."""
    fields = _fields(pid)
    return int(fields[19]) if fields else None


def _fields(pid: int) -> list[bytes]:
    """What Linux tells of a process, from its state on; nothing where that is hidden."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """What two processes share that can see each other: the boot of a machine, and the container on it."""
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists():
        return f"{socket.gethostname()} since {psutil.boot_time():.0f}"
    return f"{boot.read_text().strip()} {os.readlink(container)}"


def _content(holder: dict[str, Any]) -> bytes:
    return (json.dumps(holder, indent=1) + "\n").encode()
