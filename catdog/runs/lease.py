"""The lease of a run: an object that tells which process trains it, renewed for as long as that process lives."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from catdog.errors import CallerError, HeldError, RunError, one_line
from catdog.storage import Bucket, Changed, Stat

LEASE = "lease.json"
SECONDS = 30.0
"""A lease that was not renewed for this long has run out; it is renewed three times as often."""
_PARTING = 2.0
"""Seconds that a release may take: a lease that was not released runs out by itself."""


class Lease:
    """A run's lease in the hands of this process.

    No two processes have it at a time: each change of the object is made only if it still is as its holder left it.
    """

    def __init__(self, run: Bucket, me: dict[str, Any], stat: Stat, taken: float) -> None:
        self._run = run
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
        """Leave the run to whoever wants it next; while the store does not answer, the lease is left to run out."""
        self._ended.set()
        self._thread.join(_PARTING)
        if self._lost is None and not self._thread.is_alive():
            with contextlib.suppress(RunError, CallerError, OSError):
                run = replace(self._run, patience=_PARTING)
                run.swap(LEASE, _content(self._me | {"released": True}), self._stat)

    def _keep(self) -> None:
        renewals = 0
        while self._lost is None and not self._ended.wait(SECONDS / 3):
            renewals += 1  # a folder numbers no generations: only other bytes show that the lease was renewed
            began, lost = _clock(), None
            try:
                self._stat = self._run.swap(LEASE, _content(self._me | {"renewals": renewals}), self._stat)
                self._renewed = began
            except Changed:
                lost = "another process has taken this run over"
                with contextlib.suppress(Exception):
                    lost = self._taken_over()
            except Exception as error:
                if _clock() - self._renewed > SECONDS:
                    lost = f"the run's lease could not be renewed: {one_line(error)}"
            with self._changed:
                self._lost = RunError(f"{self._run.uri}: {lost}") if lost else None
                self._changed.notify_all()

    def _taken_over(self) -> str | None:
        """Who has taken the run over; None if what is there is a renewal of ours whose reply was lost."""
        found, holder = self._run.stat(LEASE), _holder(self._run)  # in this order, or `found` could be another's
        if found is not None and holder.get("owner") == self._me["owner"]:
            self._stat = found
            return None
        return f"{_name(holder)} has taken this run over"


@contextlib.contextmanager
def hold(run: Bucket, say: Callable[[str], None]) -> Iterator[Lease]:
    """Have the run's lease while the block lasts.

    It is taken at once where there is none, or its holder has released it or is a process of this machine that has
    ended; else only after it has not been renewed for as long as it lasts. Raises HeldError that names the process
    that does renew it.
    """
    me = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "machine": _machine()} | _process(os.getpid())
    lease = Lease(run, me, *_acquire(run, _content(me), say))
    try:
        yield lease
    finally:
        lease.release()


def held(run: Bucket, age: float) -> bool:
    """Whether a process has a run whose lease was renewed `age` seconds ago, as far as one look at it tells.

    A lease that is far ahead of the clock tells no age, and is watched until it should have been renewed.
    """
    if age >= SECONDS or _free(_holder(run)):
        return False
    return age > -SECONDS or _is_renewed(run, SECONDS / 2)


def in_training(run: Bucket, say: Callable[[str], None]) -> bool:
    """Whether a process has a run, as its renewals show and no clock."""
    if run.stat(LEASE) is None or _free(holder := _holder(run)):
        return False
    if holder.get("machine") == _machine():
        return True
    say(_waiting(run, holder))
    return _is_renewed(run, SECONDS)


def _acquire(run: Bucket, content: bytes, say: Callable[[str], None]) -> tuple[Stat, float]:
    """The lease's object once it is ours, and since when it may be."""
    seen = run.stat(LEASE)
    if seen is not None and not _free(holder := _holder(run)):
        if holder.get("machine") == _machine():
            raise HeldError(_refusal(run, holder))
        say(_waiting(run, holder))
        seen = _waited_for(run, seen)
    began = _clock()
    try:
        return run.swap(LEASE, content, seen), began
    except Changed:
        raise HeldError(f"{run.uri}: {_name(_holder(run))} has begun to train it just now") from None


def _waited_for(run: Bucket, seen: Stat) -> Stat | None:
    """The lease once it has run out or is free; raises HeldError as soon as it is renewed."""
    began, now = time.monotonic(), run.stat(LEASE)
    while now == seen and time.monotonic() - began < SECONDS:
        time.sleep(SECONDS / 30)
        now = run.stat(LEASE)
    if now != seen and now is not None and not _free(holder := _holder(run)):
        raise HeldError(_refusal(run, holder))
    return now


def _is_renewed(run: Bucket, seconds: float) -> bool:
    """Whether someone else renews the lease within so many seconds, for which it is watched."""
    seen, began = run.stat(LEASE), time.monotonic()
    while (now := run.stat(LEASE)) == seen:
        if time.monotonic() - began > seconds:
            return False
        time.sleep(seconds / 30)
    return now is not None and not _free(_holder(run))


def _waiting(run: Bucket, holder: dict[str, Any]) -> str:
    ahead = run.times(LEASE).get(LEASE, 0.0) - run.now()
    skew = f" (its lease is dated {ahead:.0f} s ahead of the clock here)" if ahead > SECONDS else ""
    return f"waiting up to {SECONDS:.0f} s: {_name(holder)} may still be training this run{skew}"


def _refusal(run: Bucket, holder: dict[str, Any]) -> str:
    return f"{run.uri}: is being trained by {_name(holder)}; stop that, or use another --run"


def _free(holder: dict[str, Any]) -> bool:
    """Whether a holder needs no more waiting for: it has released its lease, or was a process here and has ended."""
    if holder.get("released"):
        return True
    here = holder.get("machine") == _machine()
    return here and _process(holder.get("pid", 0)).get("started") != holder.get("started")


def _holder(run: Bucket) -> dict[str, Any]:
    """Who holds the lease as its object tells; nobody where it tells nothing."""
    try:
        holder = json.loads(run.read(LEASE))
    except (FileNotFoundError, ValueError):
        return {"released": True}
    return holder if isinstance(holder, dict) else {"released": True}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _process(pid: int) -> dict[str, Any]:
    """A process by its number and, for numbers are used again, the time of its start."""
    try:
        return {"pid": pid, "started": _ticks(pid) or psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid}


def _ticks(pid: int) -> int | None:
    """When a process started, in ticks since the boot, which no change of the clock moves; None where none can tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


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
