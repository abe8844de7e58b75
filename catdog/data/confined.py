"""Work on bytes that may mean harm, in a process of its own that ends when it takes too much."""

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil

from catdog.errors import RunError, one_line

SECONDS = 60
"""CPU time: many times what the largest picture takes, for it is a last net and no measure."""
STILL = 120.0
"""Seconds without an answer, and without any CPU time, after which the process is taken to hang."""
MEMORY = 6_000_000_000
"""Bytes beside those of the process that asks."""

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)

T = TypeVar("T")
# A spawned process would begin with seconds of imports, for every single picture.
_CONTEXT = multiprocessing.get_context("fork")


class Overrun(Exception):
    """What the work took too much of, in one line."""


class Starved(RunError):
    """What the machine did not have, or took back, while work was done that may be right as it is, in one line."""


def require_machine(error: Exception, name: str) -> None:
    """Raise Starved, with the name of what was worked on, where an error tells of the machine and nothing of that work."""
    of_it = isinstance(error, Starved) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
    if of_it or isinstance(error, MemoryError):
        raise Starved(f"{name}: {one_line(error)}") from None


def confined(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gives or raises, which has to pickle; raises Overrun when its process does not live to tell, or runs out
    of the memory allowed, and Starved when that is no fault of the work: no process can be had, or somebody else, as the
    kernel out of memory, killed it."""
    try:
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_send, args=(sender, work, arguments), daemon=True)
        process.start()
    except OSError as error:
        raise Starved(f"no process can be had to decode a picture: {error.strerror}") from None
    sender.close()
    with receiver:
        hung = _await(receiver, process)
        try:
            done, outcome = receiver.recv()
        except (EOFError, OSError):  # the latter in the middle of what it tells
            done, outcome = False, None
    process.join()
    if outcome is None:
        raise _fate(process.exitcode, hung)
    if isinstance(outcome, MemoryError):
        raise Overrun(f"decoding it takes more than the {MEMORY:,} bytes of memory allowed")
    if not done:
        raise outcome
    result: T = outcome
    return result


def _fate(code: int | None, hung: bool) -> Exception:
    """What to raise of a process that told nothing and ended with this code."""
    if code == -signal.SIGXCPU:
        return Overrun(f"decoding it takes more than the {SECONDS} s of a CPU allowed")
    if hung:
        return Overrun(f"decoding it stood still for {STILL:g} s")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return Starved("the process that decoded it was killed: the kernel's log, `dmesg`, tells if memory ran out")
    return Overrun(f"decoding it ended its process ({code})")


def _await(receiver: Connection, process: BaseProcess) -> bool:
    """Until there is something to receive, or the process has ended; whether it hung, and was ended."""
    spent, hung = -1.0, False
    while not receiver.poll(STILL):
        before, spent = spent, _cpu_seconds(process)
        if spent == before:
            hung = True
            process.kill()
    return hung


def _cpu_seconds(process: BaseProcess) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return -1.0
    return float(times.user + times.system)


def _send(sender: Connection, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked decides what becomes of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders have words of their own for what is broken
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, SECONDS)
        _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + MEMORY)
        outcome = True, work(*arguments)
    except Exception as error:
        outcome = False, error
    sender.send(outcome)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    # Below the hard one, at which the kernel kills without a word.
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, max(hard - 1, 0)), hard))
