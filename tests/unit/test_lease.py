"""Who may train a run: one process at a time, and the next one as soon as that is sure to have ended."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from catdog.errors import CallerError, RunError
from catdog.storage import Bucket, Changed, Folder, Stat, open_bucket
from catdog.training import lease
from catdog.training.lease import LEASE, hold

HOLDER = """
import sys
from catdog.storage import open_bucket
from catdog.training.lease import hold
with hold(open_bucket(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(lease, "SECONDS", 0.6)
    return open_bucket(str(tmp_path / "run"))


def ignore(text: str) -> None:
    """Nobody is there to be told."""


def elsewhere(run: Bucket) -> None:
    """Make the holder look like a process of another machine, of which nothing can be seen."""
    holder = json.loads(run.read(LEASE))
    run.write(LEASE, json.dumps(holder | {"machine": "another", "host": "elsewhere"}).encode())


def test_a_run_that_is_being_trained_is_refused_and_its_holder_named(run: Bucket) -> None:
    with hold(run, ignore), pytest.raises(CallerError, match=r"is being trained by process \d+ on"), hold(run, ignore):
        pass


def test_a_released_run_is_had_at_once(run: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(run, ignore):
        pass
    monkeypatch.setattr(lease, "SECONDS", 3600.0)
    with hold(run, pytest.fail) as held:
        held.require()


def test_a_run_whose_process_was_killed_here_is_had_at_once(run: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, run.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    assert not json.loads(run.read(LEASE)).get("released")
    monkeypatch.setattr(lease, "SECONDS", 3600.0)
    with hold(run, pytest.fail) as held:
        held.require()


def test_a_lease_from_another_machine_is_taken_once_it_has_run_out(run: Bucket) -> None:
    with hold(run, ignore) as first:
        first._ended.set()  # it is not renewed any more, as when its machine is gone
        first._thread.join()
        elsewhere(run)
        told: list[str] = []
        began = time.monotonic()
        with hold(run, told.append) as second:
            assert time.monotonic() - began >= lease.SECONDS
            second.require()
        assert len(told) >= 1 and "elsewhere" in told[0]


def test_a_holder_that_was_taken_over_is_told_and_leaves_the_lease_alone(run: Bucket) -> None:
    with hold(run, ignore) as held:
        run.write(LEASE, b'{"host": "elsewhere", "pid": 7}')
        held._thread.join(10)
        for ask in (held.check, held.require):
            with pytest.raises(RunError, match="process 7 on elsewhere has taken this run over"):
                ask()
    assert json.loads(run.read(LEASE)) == {"host": "elsewhere", "pid": 7}


class Flaky(Folder):
    """A store that can be away."""

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        assert AWAY.wait(20)
        return super().swap(name, content, expected)


AWAY = threading.Event()


def test_nothing_is_allowed_while_it_is_not_sure_that_the_lease_is_held(run: Bucket) -> None:
    AWAY.set()
    with hold(Flaky(run.uri), ignore) as held:
        held.require()
        AWAY.clear()
        time.sleep(lease.SECONDS * 1.2)
        asked = threading.Thread(target=held.require)
        asked.start()
        asked.join(0.3)
        assert asked.is_alive()
        AWAY.set()
        asked.join(10)
        assert not asked.is_alive()
        held.check()


class Failing(Folder):
    """A store in which nothing can be written for a while, or read."""

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        if FULL.is_set():
            raise OSError(28, "No space left on device")
        return super().swap(name, content, expected)

    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        if FULL.is_set():
            raise OSError(5, "Input/output error")
        return super().reading(name)


FULL = threading.Event()


def test_a_renewal_that_fails_is_tried_again_until_the_lease_has_run_out(run: Bucket) -> None:
    FULL.clear()
    with hold(Failing(run.uri), ignore) as held:
        FULL.set()
        time.sleep(lease.SECONDS / 2)
        FULL.clear()
        held.require()
        FULL.set()
        held._thread.join(10)
        with pytest.raises(RunError, match=r"could not be renewed: .*No space left"):
            held.require()


def test_a_lost_lease_is_told_even_if_the_new_holder_cannot_be_read(run: Bucket) -> None:
    FULL.clear()

    class Unreadable(Failing):
        def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
            if FULL.is_set():
                raise Changed("taken")
            return super().swap(name, content, expected)

    with hold(Unreadable(run.uri), ignore) as held:
        FULL.set()
        held._thread.join(10)
        with pytest.raises(RunError, match="another process has taken this run over"):
            held.check()


def test_of_many_that_want_a_run_at_once_one_gets_it(run: Bucket) -> None:
    barrier, got, refused = threading.Barrier(8), [], []

    def want() -> None:
        barrier.wait()
        try:
            got.append(run.swap(LEASE, str(threading.get_ident()).encode(), None))
        except Changed:
            refused.append(1)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 7


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_lease_that_tells_nothing_is_nobodys(run: Bucket, content: bytes) -> None:
    run.write(LEASE, content)
    with hold(run, pytest.fail) as held:
        held.check()
