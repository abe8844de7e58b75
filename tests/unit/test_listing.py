"""The table of runs: what each has come to, told from a listing and a few small reads."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_runs import begin, finish, train

from catdog import cli
from catdog.command import printing
from catdog.runs.listing import Summary, by_run, find_runs
from catdog.storage import Bucket, Folder, lease, open_bucket
from catdog.storage.lease import LEASE, hold
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore


@pytest.fixture(params=["folder", "gs"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "folder":
        (tmp_path / "bucket").mkdir()
        return open_bucket(str(tmp_path / "bucket"))
    request.getfixturevalue("store")
    return open_bucket("gs://bucket/a/prefix")


def below(bucket: Bucket, name: str) -> Bucket:
    return open_bucket(f"{bucket.uri}/{name}")


def only(bucket: Bucket) -> Summary:
    (found,) = find_runs(bucket)
    return found


def ignore(text: str) -> None:
    """Nobody is there to be told."""


@contextmanager
def held_elsewhere(run: Bucket) -> Iterator[None]:
    run.write(LEASE, b'{"machine": "another", "host": "elsewhere", "pid": 1}')
    yield


STATES = {
    "begun": (False, False, False),
    "stopped": (True, False, False),
    "trained": (True, True, False),
    "done": (True, True, True),
}


@pytest.mark.parametrize("state", STATES)
def test_a_run_that_nobody_trains_is_as_far_as_its_objects_tell(bucket: Bucket, state: str) -> None:
    saved, exported, evaluated = STATES[state]
    run = below(bucket, "r")
    with hold(run, ignore):
        begin(run)
        if saved:
            train(run, [(3, 3)])
        if evaluated:
            finish(run)
        elif exported:
            run.write("model.keras", b"model")
    assert only(bucket).state == state


@pytest.mark.parametrize("holding", [lambda run: hold(run, ignore), held_elsewhere], ids=["here", "elsewhere"])
def test_a_run_whose_lease_is_renewed_is_running_and_then_evaluating(bucket: Bucket, holding) -> None:
    run = below(bucket, "r")
    with holding(run):
        begin(run)
        assert only(bucket).state == "running"
        train(run, [(3, 3)])
        assert only(bucket).state == "running"
        run.write("model.keras", b"model")
        assert only(bucket).state == "evaluating"


def test_a_run_whose_lease_has_run_out_has_stopped(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    run = below(bucket, "r")
    train(run, [(3, 3)])
    monkeypatch.setattr(lease, "SECONDS", 0.3)
    with held_elsewhere(run):
        time.sleep(0.4)
        assert only(bucket).state == "stopped"


@pytest.mark.parametrize("alive", [True, False])
def test_a_run_in_a_folder_whose_lease_is_dated_ahead_of_the_clock_is_told_by_its_renewals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    monkeypatch.setattr(lease, "SECONDS", within(3))
    run = open_bucket(str(tmp_path / "r"))
    train(run, [(3, 3)])
    with hold(run, ignore) if alive else held_elsewhere(run):
        ahead = threading.Event()

        def date_ahead() -> None:
            os.utime(tmp_path / "r" / LEASE, (time.time() + 86400,) * 2)

        def keep_ahead() -> None:
            while not ahead.wait(0.01):
                date_ahead()

        date_ahead()
        keeper = threading.Thread(target=keep_ahead)
        keeper.start()
        try:
            assert only(open_bucket(str(tmp_path))).state == ("running" if alive else "stopped")
        finally:
            ahead.set()
            keeper.join()


def test_a_run_in_a_bucket_is_told_by_the_stores_clock_and_not_by_that_of_this_machine(store: FakeStore) -> None:
    run = open_bucket("gs://bucket/a/r")
    train(run, [(3, 3)])
    for ahead in (-3600.0, 3600.0):
        store.ahead = ahead
        with held_elsewhere(run):
            assert only(open_bucket("gs://bucket/a")).state == "running"


def test_a_run_whose_process_was_killed_here_has_stopped_at_once(bucket: Bucket) -> None:
    run = below(bucket, "r")
    train(run, [(3, 3)])
    run.write(LEASE, json.dumps({"machine": lease._machine(), "pid": os.getpid(), "started": 0}).encode())
    assert only(bucket).state == "stopped"


def test_the_step_is_that_of_the_newest_commit_and_the_best_is_that_of_the_lowest_loss(bucket: Bucket) -> None:
    run = below(bucket, "r")
    train(run, [(3, 3), (5, 5)])
    run.write("checkpoints/step-00000009/state.npz", b"without a commit")
    run.write("metrics.jsonl", run.read("metrics.jsonl") + b'{"step": 6, "split": "val", "loss": 9, "accuracy": 1}\n')
    found = only(bucket)
    assert found.step == 5 and found.best is not None
    assert (found.best.step, found.best.val_loss, found.best.val_accuracy) == (5, 0.2, 0.05)
    assert found.test_accuracy is None


def test_a_run_that_is_done_tells_its_test_accuracy(bucket: Bucket) -> None:
    run = below(bucket, "r")
    train(run, [(3, 3)])
    finish(run)
    assert only(bucket).test_accuracy == 0.875


def test_a_test_of_one_class_tells_no_accuracy(bucket: Bucket) -> None:
    run = below(bucket, "r")
    train(run, [(3, 3)])
    finish(run)
    run.write(
        "evaluation/test/metrics.json",
        b'{"accuracy": 1.0, "data": {"digest": "d"}, "undefined": {"balanced_accuracy": "every example"}}',
    )
    assert (only(bucket).state, only(bucket).test_accuracy) == ("done", None)


def test_a_run_with_nothing_yet_tells_no_figures(bucket: Bucket) -> None:
    begin(below(bucket, "r"))
    found = only(bucket)
    assert (found.step, found.best, found.test_accuracy, found.fault) == (None, None, None, "")


def test_runs_are_found_at_any_depth_and_the_one_that_changed_last_comes_first(bucket: Bucket) -> None:
    bucket.write("data/drawn/manifest.json", b"{}")
    for name in ("runs/a", "b", "runs/deep/er/c"):
        begin(below(bucket, name))
        time.sleep(0.02)
    below(bucket, "b").write("metrics.jsonl", b"")
    assert [run.name for run in find_runs(bucket)] == ["b", "runs/deep/er/c", "runs/a"]
    assert abs(find_runs(bucket)[0].changed - time.time()) < within(10)


def test_a_uri_that_is_a_run_itself_is_listed_as_a_dot(bucket: Bucket) -> None:
    train(bucket, [(3, 3)])
    assert only(bucket).name == "." and only(bucket).step == 3


def test_an_object_belongs_to_the_innermost_run_that_it_lies_in() -> None:
    times = {"recipe.toml": 1.0, "x": 2.0, "r/recipe.toml": 3.0, "r/a/b": 4.0, "r/s/recipe.toml": 5.0, "ra/b": 6.0}
    assert by_run(times) == {
        "": {"recipe.toml": 1.0, "x": 2.0, "ra/b": 6.0},
        "r": {"recipe.toml": 3.0, "a/b": 4.0},
        "r/s": {"recipe.toml": 5.0},
    }
    assert by_run({"x/y": 1.0}) == {}


TOO_MUCH = b" " * (1 << 21)
SPOILT = {
    "recipe.toml": [b"\xff", b"# Shopping\n- milk", b"[data]\nsise = 9", b"data = 1", b"a = " + b"[" * 9999, TOO_MUCH],
    "metrics.jsonl": [
        b'{"step": "x", "split": "val", "loss": 1, "accuracy": 1}\n{"step":1,"split":"","loss":1,"accuracy":1}',
        b'{"step": 1, "split": "val", "loss": "x", "accuracy": 1}',
        b'{"step": Infinity, "split": "val", "loss": 1, "accuracy": 1}',
        b'{"step": 1, "split": "val", "loss": 1, "accuracy": 1, "epoch": []}',
        b"[" * 9999,
    ],
    "evaluation/test/metrics.json": [b"{", b"[]", b"{}", b'{"accuracy": null}', b'{"a":' * 9999, TOO_MUCH],
}


@pytest.mark.parametrize(
    ("name", "content"), [pytest.param(name, content, id=name) for name in SPOILT for content in SPOILT[name]]
)
def test_a_run_that_cannot_be_read_says_so_and_the_others_are_listed(
    bucket: Bucket, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    for run in ("good", "bad"):
        train(below(bucket, run), [(3, 3)])
        finish(below(bucket, run))
    below(bucket, "bad").write(name, content)
    assert cli.run(["runs", bucket.uri]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert rows == {"bad": "unreadable", "good": "done"}
    assert err.startswith("catdog: bad: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "lease", [b'{"machine": 1, "pid": "x"}', b"[" * 9999, b'{"pid": -1}', b'{"pid": 1e3}', TOO_MUCH]
)
def test_a_run_whose_lease_is_none_is_listed_as_nobodys(bucket: Bucket, lease: bytes) -> None:
    train(below(bucket, "r"), [(3, 3)])
    below(bucket, "r").write(LEASE, lease)
    assert only(bucket).state == "stopped"


@pytest.mark.parametrize("name", ["bad/recipe.toml", "bad", "good/tensorboard/events"])
def test_a_link_that_leads_to_itself_is_told_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for run in ("good", "fine"):
        train(open_bucket(str(tmp_path / run)), [(3, 3)])
    link = tmp_path / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(link)
    assert cli.run(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    told = name.partition("/")[0]
    assert rows == {"good": "stopped", "fine": "stopped"} | {told: "unreadable"}
    assert (err.startswith(f"catdog: {told}: ") and err.endswith(": Too many levels of symbolic links\n")) or (
        err == f"catdog: {told}: Too many levels of symbolic links\n"
    )


def test_a_folder_that_may_not_be_looked_into_is_told_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("good", "bad", "half"):
        train(open_bucket(str(tmp_path / run)), [(3, 3)])
    scandir, closed = os.scandir, [str(tmp_path / "bad"), str(tmp_path / "half/checkpoints")]

    def refused(path: str | Path) -> object:  # root, who may run the tests, may look into everything
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert cli.run(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert rows == {"good": "stopped", "half": "unreadable", "bad": "unreadable"}
    assert "catdog: bad: Permission denied\n" in err and "catdog: half: checkpoints: Permission denied\n" in err


def test_a_place_that_may_not_be_looked_into_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str | Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    assert cli.run(["runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"catdog: error: {tmp_path}: cannot be read: Permission denied\n"


def test_folders_that_lie_very_deep_in_each_other_are_no_hindrance(deep_folder: Path) -> None:
    train(open_bucket(str(deep_folder / "good")), [(3, 3)])
    assert [run.name for run in find_runs(open_bucket(str(deep_folder))) if run.state != "unreadable"] == ["good"]


def test_a_run_that_is_deleted_after_the_listing_is_left_out(tmp_path: Path) -> None:
    class Late(Folder):
        def times(self, prefix: str = "", faults: dict[str, str] | None = None) -> dict[str, float]:
            return super().times(prefix, faults) | {"gone/recipe.toml": 1.0}

    begin(open_bucket(str(tmp_path / "here")))
    assert [run.name for run in find_runs(Late(str(tmp_path)))] == ["here"]


def test_the_bucket_is_listed_once_and_only_small_objects_are_read(store: FakeStore) -> None:
    bucket = open_bucket("gs://bucket/a")
    for name in ("r", "s", "t"):
        train(below(bucket, name), [(3, 3), (5, 5)])
        finish(below(bucket, name))
    pages = -(-len(store.names("bucket")) // 3)
    before = store.count("list"), store.count("download", "npz|keras|tfevents|COMMITTED")
    assert len(find_runs(bucket)) == 3
    assert (store.count("list"), store.count("download", "npz|keras|tfevents|COMMITTED")) == (
        before[0] + pages,
        before[1],
    )


def test_the_table_has_one_aligned_line_a_run_without_tabs(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a very long name/" * 12 + "[bold]run"
    train(below(bucket, "short"), [(3, 3)])
    finish(below(bucket, "short"))
    time.sleep(0.02)
    begin(below(bucket, long))
    assert cli.run(["runs", bucket.uri]) == 0
    out, err = capsys.readouterr()
    head, first, second = out.splitlines()
    assert head.split("  ")[0] == "run" and head.endswith("age") and "\t" not in out and err == ""
    assert first.startswith(f"{long}  begun ") and re.search(r" \d s$", first)
    assert len(head) == len(first) == len(second)
    assert re.fullmatch(r"short +done +3 +0\.3333 +0\.0300 +0\.8750 +\d s", second)


def test_names_that_would_steer_the_terminal_are_shown_with_escapes(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(below(bucket, "[red]\x1b[31m\u202e"))
    train(below(bucket, "bad\x1b]0;x\x07"), [(3, 3)])
    below(bucket, "bad\x1b]0;x\x07").write("recipe.toml", b"[data]\nsise = 9")
    assert cli.run(["runs", bucket.uri]) == 0
    out, err = capsys.readouterr()
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"[red]\\x1b[31m\\u202e", "bad\\x1b]0;x\\x07"}
    assert err.startswith("catdog: bad\\x1b]0;x\\x07: ")


def test_no_runs_are_told_in_one_line(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.write("data/manifest.json", b"{}")
    assert cli.run(["runs", bucket.uri]) == 0
    assert capsys.readouterr() == (f"{bucket.uri}: there is no run here\n", "")


@pytest.mark.parametrize(
    ("uri", "told"),
    [("/none/here", "no such folder"), (__file__, "no such folder"), ("s3://x", "not supported"), ("", "empty URI")],
)
def test_a_place_that_is_not_there_is_a_mistake(uri: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["runs", uri]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1


def test_a_bucket_that_is_not_there_is_a_mistake(store: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["runs", "gs://missing/x"]) == 2
    assert "there is no bucket missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (-7300, "2 h ahead"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7300, "2 h"),
        (86399, "23 h"),
        (86400, "1 d"),
        (5.5 * 86400, "5 d"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert printing._ago(seconds) == text


def test_neither_command_waits_for_tensorflow(tmp_path: Path) -> None:
    train(open_bucket(str(tmp_path / "r")), [(3, 3)])
    probe = (
        "import sys; from catdog import cli\n"
        f"assert cli.run(['runs', {str(tmp_path)!r}]) == 0\n"
        f"assert cli.run(['pull', {str(tmp_path / 'r')!r}, {str(tmp_path / 's')!r}]) == 0\n"
        "heavy = {'tensorflow', 'keras', 'ray', 'matplotlib', 'sklearn', 'google.cloud.storage'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_that_lies_elsewhere_by_a_link_is_listed_and_another_name_of_one_is_not(tmp_path: Path) -> None:
    train(open_bucket(str(tmp_path / "elsewhere/run")), [(3, 3)])
    train(open_bucket(str(tmp_path / "runs/here")), [(5, 5)])
    (tmp_path / "runs/linked").symlink_to(tmp_path / "elsewhere/run")
    (tmp_path / "runs/a_latest").symlink_to("here")
    found = {run.name: run.step for run in find_runs(open_bucket(str(tmp_path / "runs")))}
    assert found == {"linked": 3, "here": 5}
