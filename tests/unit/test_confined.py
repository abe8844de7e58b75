"""Work in a process of its own: what comes of it, and what becomes of it when it takes too much."""

import os
import signal
import time

import pytest

from catdog.data import confined as module
from catdog.data.confined import Overrun, confined


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
    with pytest.raises(MemoryError):
        confined(hungry)


def test_a_process_that_is_killed_is_told() -> None:
    with pytest.raises(Overrun, match="ended its process"):
        confined(killed)


def hangs() -> None:
    signal.sigwait({signal.SIGUSR1})


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL", 0.5)
    with pytest.raises(Overrun, match=r"ended its process \(-9\)"):
        confined(hangs)
