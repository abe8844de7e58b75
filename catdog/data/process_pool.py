"""Work on all cores: a pool of processes that ends with the one that started it, however that ends."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from catdog.errors import RunError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """A pool of as many processes as cores; when the block raises, what has not begun is dropped.

    Raises RunError in place of BrokenProcessPool, and where no pool can be made. Processes are spawned: a fork of a
    process that runs threads, as TensorFlow's, may hang.
    """
    try:
        pool = ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), initializer=_begin)
    except OSError as error:  # its locks are semaphores, which lie in a file system in memory
        raise RunError(
            f"a pool of processes cannot be made: {error.strerror}: {error.filename or '/dev/shm'}"
        ) from None
    # The first submission starts all processes. Ctrl-C is held back from them until they know to ignore it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pool.submit(os.getpid)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield pool
    except BrokenProcessPool:
        raise RunError(
            "a process of the pool was killed, or ended by itself: the kernel's log, `dmesg`, tells if memory ran out"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


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
