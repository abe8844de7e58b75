"""Work on all cores: a pool of processes that ends with the one that started it, however that ends."""

import contextlib
import errno
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
        shared = error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSYS)
        advice = "; on Linux it needs room and the right to write in /dev/shm" if shared else ""
        raise RunError(f"no pool of processes can be had: {error.strerror}{advice}") from None
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
        with _ctrl_c_held_back():  # a submission starts a process where none is idle
            return super().submit(call, *arguments, **named)


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, and keep it from processes that are started in it.

    A signal that this thread blocks may be taken by another one, and Python still interrupts the main thread: a process
    that is just being started would not get all that it waits for.
    """
    noted: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
            if noted:
                signal.raise_signal(signal.SIGINT)


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
