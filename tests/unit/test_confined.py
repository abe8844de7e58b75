"""Work in a process of its own: what comes of it, and what becomes of it when it takes too much."""

import errno
import gc
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from catdog.data import confined as module
from catdog.data.confined import Overrun, Starved, confined


def busy() -> None:
    while True:
        pass


def hungry() -> int:
    return len(bytearray(10**9))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refused() -> None:
    raise ValueError("not that")


def test_what_work_gives_or_raises_comes_back() -> None:
    assert confined(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="not that"):
        confined(refused)


def test_it_is_done_in_another_process() -> None:
    assert confined(os.getpid) != os.getpid()


def test_work_without_end_is_ended_and_its_limit_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 1)
    began = time.process_time()
    with pytest.raises(Overrun, match="more than the 1 s of a CPU"):
        confined(busy)
    assert time.process_time() - began < 1  # of this process


def test_work_that_takes_too_much_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert confined(hungry) == 10**9
    monkeypatch.setattr(module, "MEMORY", 10**8)
    with pytest.raises(Overrun, match="more than the 100,000,000 bytes of memory"):
        confined(hungry)


def exits() -> None:
    os._exit(3)


def breaks_off() -> None:
    """In the middle of what it tells, as far as the other end can see."""
    [sender] = [each for each in gc.get_objects() if isinstance(each, Connection) and not each.closed and each.writable]
    os.write(sender.fileno(), (1000).to_bytes(4, "big") + b"half")
    os._exit(3)


@pytest.mark.parametrize("work", [exits, breaks_off])
def test_a_process_that_ends_by_itself_is_the_fault_of_the_work(work: Callable[[], None]) -> None:
    with pytest.raises(Overrun, match=r"ended its process \(3\)"):
        confined(work)


def test_a_process_that_is_killed_is_the_fault_of_the_machine() -> None:
    with pytest.raises(Starved, match=r"was killed: .* if memory ran out"):
        confined(killed)


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_where_no_process_can_be_had_the_work_is_not_to_blame(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, call, none)
    with pytest.raises(Starved, match="Resource temporarily unavailable"):
        confined(divmod, 7, 2)


def hangs() -> None:
    signal.sigwait({signal.SIGUSR1})


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL", 0.5)
    with pytest.raises(Overrun, match="stood still"):
        confined(hangs)
