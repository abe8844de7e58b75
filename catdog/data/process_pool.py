"""Work on all cores: a pool of processes that ends with the one that started it, however that ends."""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from catdog.data.cpu_quota import cpu_quota
from catdog.errors import RunError

T = TypeVar("T")


def cores() -> int:
    """CPU cores that this process may use; of a container's share of the machine's time, a part counts as one."""
    if hasattr(os, "process_cpu_count"):
        allowed = os.process_cpu_count()
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(allowed or 1, cpu_quota())))


@contextlib.contextmanager
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """A pool of as many processes as cores; when the block raises, what has not begun is dropped.

    Raises RunError in place of BrokenProcessPool, and where the system has no semaphores for a pool. Processes are
    spawned: a fork of a process that runs threads, as TensorFlow's, may hang.
    """
    try:
        pool = _Pool(cores(), multiprocessing.get_context("spawn"), initializer=_begin)
    except OSError as error:
        raise RunError(
            f"no pool of processes can be had: {error.strerror}; on Linux it needs room and the right to write in /dev/shm"
        ) from None
    try:
        yield pool
    except BrokenProcessPool:
        raise RunError(
            "a process of the pool was killed, or ended by itself: the kernel's log, `dmesg`, tells if memory ran out"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Pool(ProcessPoolExecutor):
    """One whose processes never see Ctrl-C: it is held back from each, from its first instruction on."""

    def submit(self, call: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        # A submission starts a process where none is idle, which inherits what is held back here.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(call, *arguments, **named)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    # Ctrl-C reaches the whole process group: the parent alone decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its pool, and a pool's process holds the pipe that it waits on open itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
