"""Locks on files, by which the processes that share a folder take turns; the kernel drops those of a process that ends."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from catdog.errors import CallerError, RunError, warn

SILENT = 1.0
"""Seconds of waiting after which the person who waits is told."""

_HOLDER = re.compile(rb"process \d+ on [\w.-]+")


def try_lock(file: IO[bytes], kind: int) -> bool:
    """Whether a lock, LOCK_EX or LOCK_SH, could be had at once.

    Raises CallerError on a file system that grants none, as some that come over a network.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise CallerError(
            f"{file.name}: cannot be locked: {error.strerror}; catdog needs flock there: mount that file system with"
            " locks (NFS: its lock service; Lustre: the option flock), or use a folder on another one"
        ) from None
    return True


@contextlib.contextmanager
def alone(path: Path, patience: float = float("inf")) -> Iterator[None]:
    """Hold the lock on a file, which is created if it isn't there and tells meanwhile who has it.

    Who else has it is told once that takes long. Raises RunError after `patience` seconds, CallerError where something
    else lies there, and as `try_lock` does.
    """
    began, told = time.monotonic(), False
    with open(path, "a+b", buffering=0, opener=_open) as lock:
        while not try_lock(lock, fcntl.LOCK_EX):
            waited = time.monotonic() - began
            if waited > patience:
                raise RunError(f"{path}: {_holder(lock)} has had it locked for {patience:.0f} s")
            if waited > SILENT and not told:
                warn(f"{path}: waiting for {_holder(lock)}, which has it locked")
                told = True
            time.sleep(min(0.002 + waited / 10, 0.1))
        ours = not _content(lock) or _HOLDER.fullmatch(_content(lock)) is not None  # one that was killed has left it
        try:
            if ours:
                with contextlib.suppress(OSError):  # a full disk keeps nobody from the lock
                    lock.truncate(0)
                    lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            if ours:
                with contextlib.suppress(OSError):
                    lock.truncate(0)


def _open(path: str, flags: int) -> int:
    """Open a lock's file, and nothing else; what a link leads to is somebody's own."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _no_lock(path) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_lock(path)
    return handle


def _no_lock(path: str) -> CallerError:
    kind = "a link" if os.path.islink(path) else "no regular file"
    return CallerError(f"{path}: is {kind}, where catdog keeps a file to be locked: move it, or name another folder")


def _holder(lock: IO[bytes]) -> str:
    """Who wrote down that it has the lock."""
    found = _HOLDER.fullmatch(_content(lock))
    return found[0].decode() if found else "another process"


def _content(lock: IO[bytes]) -> bytes:
    lock.seek(0)
    return lock.read(300)
