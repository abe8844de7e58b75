"""A folder that one process at a time has to itself."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    sys.exit("infra: error: needs Linux or macOS; on Windows, run it in WSL 2")


class Refused(Exception):
    """What was asked for cannot be done; the message is one line."""


@contextlib.contextmanager
def alone_in(folder: Path, taken: str) -> Iterator[None]:
    """Have a folder, which is created if it isn't there, closed to other people.

    Raises Refused, which tells what is `taken`, while another process has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; give another --folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{folder}: {taken}") from None
    except OSError as error:
        raise Refused(f"{folder}: cannot be locked: {error.strerror}; give a --folder on another file system") from None
    try:
        yield
    finally:
        os.close(lock)
