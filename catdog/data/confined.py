"""Work on bytes that may mean harm, in a process of its own that ends when it takes too much."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil

SECONDS = 60
"""CPU time: many times what the largest picture takes, for it is a last net and no measure."""
STILL = 120.0
"""Seconds without an answer, and without any CPU time, after which the process is taken to hang."""
MEMORY = 6_000_000_000
"""Bytes beside those of the process that asks."""

T = TypeVar("T")
# A spawned process would begin with seconds of imports, for every single picture.
_CONTEXT = multiprocessing.get_context("fork")


class Overrun(Exception):
    """What the work took too much of, in one line."""


def confined(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gives or raises, which has to pickle; raises Overrun when its process does not live to tell."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()
    with receiver:
        try:
            _await(receiver, process)
            done, outcome = receiver.recv()
        except EOFError:
            done, outcome = False, None
    process.join()
    if outcome is None:
        over = process.exitcode == -signal.SIGXCPU
        how = f"takes more than the {SECONDS} s of a CPU allowed" if over else f"ended its process ({process.exitcode})"
        raise Overrun(f"decoding it {how}")
    if not done:
        raise outcome
    result: T = outcome
    return result


def _await(receiver: Connection, process: BaseProcess) -> None:
    """Until there is something to receive, or the process has ended; one that hangs is ended."""
    spent = -1.0
    while not receiver.poll(STILL):
        before, spent = spent, _cpu_seconds(process)
        if spent == before:
            process.kill()


def _cpu_seconds(process: BaseProcess) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return -1.0
    return float(times.user + times.system)


def _send(sender: Connection, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked decides what becomes of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders have words of their own for what is broken
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, SECONDS)
    _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + MEMORY)
    try:
        outcome = True, work(*arguments)
    except Exception as error:
        outcome = False, error
    sender.send(outcome)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
