"""Who may train a run: one process at a time, and the next one as soon as that is sure to have ended."""

import contextlib
import errno
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catdog.errors import CallerError, RunError
from catdog.storage import Bucket, Changed, Folder, Stat, Unavailable, lease, open_bucket
from catdog.storage.lease import LEASE, hold, in_training
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault

HOLDER = """
import sys
from catdog.storage import open_bucket
from catdog.storage.lease import hold
with hold(open_bucket(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", within(0.6))


@pytest.fixture
def folder(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "run"))


@pytest.fixture
def stored(store: FakeStore) -> Bucket:
    return open_bucket("gs://bucket/run")


@pytest.fixture(params=["folder", "stored"])
def run(request: pytest.FixtureRequest) -> Bucket:
    return request.getfixturevalue(request.param)


TAKEN = b'{"host": "elsewhere", "pid": 7}'


def ignore(text: str) -> None:
    """Nobody is there to be told."""


def elsewhere(run: Bucket) -> None:
    """Make the holder look like a process of another machine, of which nothing can be seen."""
    holder = json.loads(run.read(LEASE))
    run.write(LEASE, json.dumps(holder | {"machine": "another", "host": "elsewhere"}).encode())


def test_a_run_that_is_being_trained_is_refused_and_its_holder_named(run: Bucket) -> None:
    with hold(run, ignore), pytest.raises(CallerError, match=r"is being trained by process \d+ on"), hold(run, ignore):
        pass


def test_the_holder_is_told_with_the_time_since_when_it_has_the_run(run: Bucket) -> None:
    with (
        hold(run, ignore),
        pytest.raises(CallerError, match=r" since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; stop that"),
        hold(run, ignore),
    ):
        pass


@pytest.mark.parametrize("since", [None, "noon", 1e300, [1]])
def test_a_holder_that_tells_no_time_is_told_all_the_same(run: Bucket, since: object) -> None:
    with hold(run, ignore):
        run.write(LEASE, json.dumps(json.loads(run.read(LEASE)) | {"since": since}).encode())
        with pytest.raises(CallerError, match=r"by process \d+ on \S+; stop that"), hold(run, ignore):
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


def test_a_lease_dated_ahead_of_the_clock_runs_out_all_the_same_and_the_clocks_are_told(folder: Bucket) -> None:
    folder.write(LEASE, b'{"machine": "another", "host": "elsewhere", "pid": 7}')
    os.utime(Path(folder.uri) / LEASE, (time.time() + 86400,) * 2)
    told: list[str] = []
    began = time.monotonic()
    with hold(folder, told.append) as held:
        held.require()
    assert lease.SECONDS <= time.monotonic() - began < within(10)
    assert len(told) == 1 and re.search(r"process 7 on elsewhere.*dated 86\d\d\d s ahead of the clock here", told[0])


@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_lease_that_is_renewed_elsewhere_is_seen_whatever_the_clocks_say(folder: Bucket, ahead: float) -> None:
    def date() -> None:
        os.utime(Path(folder.uri) / LEASE, (time.time() + ahead,) * 2)

    over = threading.Event()

    def renew() -> None:
        for number in itertools.count():
            folder.write(
                LEASE, json.dumps({"machine": "another", "host": "elsewhere", "pid": 7, "renewals": number}).encode()
            )
            date()
            if over.wait(0.1):
                return

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        while not folder.exists(LEASE):
            time.sleep(0.01)
        assert in_training(folder, ignore)
        with pytest.raises(CallerError, match="is being trained by process 7 on elsewhere"), hold(folder, ignore):
            pass
    finally:
        over.set()
        renewing.join()
    assert not in_training(folder, ignore)


def test_a_holder_that_was_taken_over_is_told_and_leaves_the_lease_alone(run: Bucket) -> None:
    with hold(run, ignore) as held:
        run.write(LEASE, TAKEN)
        held._thread.join(within(10))
        for ask in (held.check, held.require):
            with pytest.raises(RunError, match="process 7 on elsewhere has taken this run over"):
                ask()
    assert run.read(LEASE) == TAKEN


def test_of_two_that_find_a_run_free_one_gets_it_and_the_other_is_told(
    run: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap, both_want, one_is_refused = type(run).swap, threading.Barrier(2), threading.Event()

    def together(self: Bucket, name: str, content: bytes, expected: Stat | None) -> Stat:
        if expected is None:
            both_want.wait(within(10))
        return swap(self, name, content, expected)

    def want() -> str:
        try:
            with hold(run, ignore) as held:
                assert one_is_refused.wait(within(10))
                held.require()
                return "held"
        except CallerError as error:
            one_is_refused.set()
            return str(error)

    monkeypatch.setattr(type(run), "swap", together)
    with ThreadPoolExecutor(2) as pool:
        refused, held = sorted((pool.submit(want), pool.submit(want)), key=lambda end: end.result() == "held")
    assert held.result() == "held" and "has begun to train it just now" in refused.result()


def test_a_lease_whose_taking_and_renewals_lose_their_replies_is_held_on(store: FakeStore, stored: Bucket) -> None:
    lost = Fault("upload", "lost_reply", times=2)
    store.faults.add(lost, Fault("upload", "none", times=2), lost)
    with hold(stored, pytest.fail) as held:
        while store.faults.left:
            held.require()
            time.sleep(0.01)
        time.sleep(lease.SECONDS)
        held.require()
    assert json.loads(stored.read(LEASE))["released"]


def test_a_lease_that_was_long_in_the_taking_is_not_relied_on_before_it_is_renewed(
    store: FakeStore, stored: Bucket
) -> None:
    store.faults.add(Fault("upload", "stall", seconds=within(30)))
    with hold(stored, ignore) as held:
        stored.write(LEASE, TAKEN)  # as another may: since it was written, it has run out
        with pytest.raises(RunError, match="process 7 on elsewhere has taken this run over"):
            held.require()


@pytest.mark.parametrize("taken", [False, True])
def test_after_the_store_was_away_a_lease_is_held_on_unless_another_has_taken_it(
    store: FakeStore, stored: Bucket, taken: bool
) -> None:
    with ThreadPoolExecutor(1) as pool, hold(stored, ignore) as held:
        store.down = True
        time.sleep(lease.SECONDS * 1.2)
        asked = pool.submit(held.require)
        with pytest.raises(TimeoutError):
            asked.result(0.3)
        if taken:
            store.put("bucket", f"run/{LEASE}", TAKEN)
        store.down = False
        with pytest.raises(RunError, match="process 7 on elsewhere") if taken else contextlib.nullcontext():
            asked.result(within(10))
    assert (stored.read(LEASE) == TAKEN) == taken


class Flaky(Folder):
    """A store that can be away."""

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        assert AWAY.wait(within(20))
        return super().swap(name, content, expected)


AWAY = threading.Event()


def test_nothing_is_allowed_while_it_is_not_sure_that_the_lease_is_held(folder: Bucket) -> None:
    AWAY.set()
    with hold(Flaky(folder.uri), ignore) as held:
        held.require()
        AWAY.clear()
        time.sleep(lease.SECONDS * 1.2)
        asked = threading.Thread(target=held.require)
        asked.start()
        asked.join(0.3)
        assert asked.is_alive()
        AWAY.set()
        asked.join(within(10))
        assert not asked.is_alive()
        held.check()


class Halfway(Folder):
    """A store that once tells nothing of what it has done."""

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        stat = super().swap(name, content, expected)
        if expected is not None and not SILENT:
            SILENT.append(stat)
            raise Unavailable("no answer")
        return stat


SILENT: list[Stat] = []


def test_a_renewal_that_was_made_without_an_answer_is_not_taken_for_another_process(folder: Bucket) -> None:
    SILENT.clear()
    with hold(Halfway(folder.uri), print) as lease:
        while folder.stat(LEASE) in (None, *SILENT) or not SILENT:  # until there is another renewal after that one
            lease.check()
            time.sleep(0.01)
        lease.require()
        assert json.loads(folder.read(LEASE))["renewals"] >= 2


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


def test_a_renewal_that_fails_is_tried_again_until_the_lease_has_run_out(folder: Bucket) -> None:
    FULL.clear()
    with hold(Failing(folder.uri), ignore) as held:
        FULL.set()
        time.sleep(lease.SECONDS / 2)
        FULL.clear()
        held.require()
        FULL.set()
        held._thread.join(within(10))
        with pytest.raises(RunError, match=r"could not be renewed: .*No space left"):
            held.require()


def test_a_lost_lease_is_told_even_if_the_new_holder_cannot_be_read(folder: Bucket) -> None:
    FULL.clear()

    class Unreadable(Failing):
        def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
            if FULL.is_set():
                raise Changed("taken")
            return super().swap(name, content, expected)

    with hold(Unreadable(folder.uri), ignore) as held:
        FULL.set()
        held._thread.join(within(10))
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


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"[" * 9999, b"\xff\xfe", b'{"pid": "7"}', b'{"pid": [7]}', b'{"pid": 0}', b'{"pid": 1e400}',
     b'{"pid": ' + b"9" * 5000 + b"}", b'{"host": 7}', b" " * (1 << 21)],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_lease_that_tells_nothing_is_nobodys(run: Bucket, content: bytes) -> None:
    run.write(LEASE, content)
    with hold(run, pytest.fail) as held:
        held.check()


def test_a_process_whose_name_is_cut_within_a_character_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = b"7 (\xe7\x8c) S " + b" ".join(str(number).encode() for number in range(4, 30))
    monkeypatch.setattr(Path, "read_bytes", lambda path: stat)
    assert lease._ticks(7) == 22


def test_a_holder_whose_process_is_hidden_is_waited_for_and_not_taken_over(
    folder: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def nobody(pid: int) -> None:
        raise lease.psutil.NoSuchProcess(pid)

    with hold(folder, ignore):  # by this process, which renews it
        monkeypatch.setattr(lease, "_fields", lambda pid: [])
        monkeypatch.setattr(os, "kill", hidden)
        monkeypatch.setattr(lease.psutil, "Process", nobody)
        assert in_training(folder, ignore)
        with pytest.raises(CallerError, match="is being trained by process"), hold(folder, ignore):
            pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_holder_that_was_killed_and_that_nobody_has_waited_for_holds_nothing(
    folder: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", HOLDER, folder.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert in_training(folder, ignore)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        monkeypatch.setattr(lease, "SECONDS", 3600.0)
        assert not in_training(folder, pytest.fail)
        with hold(folder, pytest.fail) as held:
            held.require()
