"""What a reader of a bucket sees: whole objects, and nothing else."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import DEEP

from catdog.errors import CallerError, RunError
from catdog.storage import Bucket, Changed, Folder, open_bucket

NAMES = ["a", "b/c.json", "with space/and more.txt", "ünï/コード/😀.png", "checkpoints/step-00000001/state.npz"]

KILLED_HALF_WAY = """
import os, sys
from catdog.storage import Bucket, open_bucket
with open_bucket(sys.argv[1]).writing(sys.argv[2]) as path:
    path.write_bytes(b"half")
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "bucket"))


def kill_a_writer(bucket: Bucket, name: str) -> None:
    """Let another process write half an object, and kill it there."""
    command = [sys.executable, "-c", KILLED_HALF_WAY, bucket.uri, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
        assert writer.wait() == -signal.SIGKILL


def test_a_writer_killed_half_way_leaves_the_old_object_and_no_new_name(bucket):
    bucket.write("kept/old.json", b"old content")
    kill_a_writer(bucket, "kept/old.json")
    kill_a_writer(bucket, "new/new.json")
    assert bucket.list() == ["kept/old.json"]
    assert bucket.read("kept/old.json") == b"old content"
    assert not bucket.exists("new/new.json")
    left = [path for path in Path(bucket.uri).rglob("*") if path.is_file()]
    assert len(left) == 3  # so there was something to hide
    bucket.write("new/new.json", b"whole")
    assert bucket.read("new/new.json") == b"whole"
    for name in bucket.list():
        bucket.delete(name)
    bucket.sweep(lambda name: True)
    assert [path for path in Path(bucket.uri).rglob("*") if path.is_file()] == []


def test_a_block_that_ends_badly_leaves_the_old_object_and_no_temporary(bucket):
    bucket.write("a.json", b"old")

    def write_half() -> None:
        with bucket.writing("a.json") as path:
            path.write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert [path.name for path in Path(bucket.uri).iterdir()] == ["a.json"]
    assert bucket.read("a.json") == b"old"


def test_an_object_is_there_only_once_the_block_has_ended(bucket):
    with bucket.writing("model.keras") as path:
        path.write_bytes(b"x")
        assert path.suffix == ".keras"  # Keras goes by it
        assert bucket.list() == [] and not bucket.exists("model.keras")
    assert bucket.list() == ["model.keras"]


def test_what_is_new_replaces_nothing(bucket):
    for content in (b"one", b"one"):
        with bucket.writing("a", new=True) as path:
            path.write_bytes(content)

    def write_another() -> None:
        with bucket.writing("a", new=True) as path:
            path.write_bytes(b"two")

    with pytest.raises(Changed, match="a: was written by another process"):
        write_another()
    assert bucket.read("a") == b"one"
    assert bucket.list() == ["a"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_what_is_written_is_for_the_umask_to_say(bucket, mask, mode):
    before = os.umask(mask)
    try:
        bucket.write("a", b"")
        bucket.swap("b", b"", None)
    finally:
        os.umask(before)
    assert [bucket.local(name).stat().st_mode & 0o777 for name in "ab"] == [mode, mode]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_listed_read_and_deleted(bucket, name):
    bucket.write(name, b"one")
    bucket.write(name, b"two")
    assert bucket.list() == [name]
    assert bucket.exists(name) and bucket.read(name) == b"two"
    bucket.delete(name)
    bucket.delete(name)
    assert bucket.list() == [] and not bucket.exists(name)
    with pytest.raises(FileNotFoundError):
        bucket.read(name)


@given(content=st.binary())
def test_what_is_read_is_what_was_written(tmp_path_factory, content):
    bucket = open_bucket(str(tmp_path_factory.mktemp("bucket")))
    bucket.write("x", content)
    assert bucket.read("x") == content


def test_a_list_is_sorted_and_goes_by_prefix(bucket):
    for name in ("b", "a/2", "a/1", "ab", "a/deep/3"):
        bucket.write(name, b"")
    assert bucket.list() == ["a/1", "a/2", "a/deep/3", "ab", "b"]
    assert bucket.list("a") == ["a/1", "a/2", "a/deep/3", "ab"]
    assert bucket.list("a/") == ["a/1", "a/2", "a/deep/3"]
    assert bucket.list("a/d") == ["a/deep/3"]
    assert bucket.list("none/") == []
    assert open_bucket(f"{bucket.uri}/a").list() == ["1", "2", "deep/3"]


def test_the_times_are_those_of_whole_objects_and_go_by_prefix(bucket):
    for name in ("a/1", "a/2", "b"):
        bucket.write(name, b"")
    kill_a_writer(bucket, "a/3")
    os.utime(bucket.local("a/1"), (0, 1234.5))
    times = bucket.times("a/")
    assert times.keys() == {"a/1", "a/2"} and times["a/1"] == 1234.5
    assert abs(times["a/2"] - time.time()) < 60
    assert bucket.times().keys() == {"a/1", "a/2", "b"}


def test_a_fetch_tells_how_many_bytes_have_come(bucket, tmp_path):
    bucket.write("x", b"0123456789")
    told: list[int] = []
    bucket.fetch("x", bucket.stat("x"), tmp_path / "y", told.append)
    assert sum(told) == 10 and (tmp_path / "y").read_bytes() == b"0123456789"


def test_a_folder_is_no_object(bucket):
    bucket.write("a/b", b"")
    assert not bucket.exists("a")


def test_a_folder_is_there_as_long_as_an_object_lies_in_it(bucket):
    for name in ("step-1/x", "step-1/y", "step-10/x"):
        bucket.write(name, b"")
    bucket.delete("step-1/x")
    assert bucket.list() == ["step-1/y", "step-10/x"]
    bucket.delete("step-1/y")
    assert [path.name for path in Path(bucket.uri).iterdir()] == ["step-10"]


def test_a_sweep_takes_what_killed_writers_of_the_named_objects_left_and_nothing_else(bucket):
    kill_a_writer(bucket, "a/state.npz")
    kill_a_writer(bucket, "run below/a/state.npz")
    kill_a_writer(bucket, "b.json")
    theirs = [
        ".part-mine",
        ".part-abcdefgh",
        ".part-00000001.npz",
        "a/.part-x-state.npz",
        "a/.part-1234567890-state.npz",
    ]
    for name in theirs:
        (Path(bucket.uri) / name).write_bytes(b"mine")
    with bucket.writing("a/state.npz") as writing:
        before = set(Path(bucket.uri).rglob(".part-*"))
        bucket.sweep({"a/state.npz"}.__contains__)
        left = set(Path(bucket.uri).rglob(".part-*"))
        writing.write_bytes(b"whole")
    assert len(before - left) == 1 and not left - before
    assert {writing, *(Path(bucket.uri) / name for name in theirs)} < left
    assert bucket.read("a/state.npz") == b"whole"


def test_a_lock_of_another_program_keeps_its_content(bucket):
    bucket.write("a", b"")
    (Path(bucket.uri) / ".lock").write_bytes(b"pid 7")
    bucket.swap("b", b"", None)
    assert (Path(bucket.uri) / ".lock").read_bytes() == b"pid 7"


def test_a_path_that_leads_through_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for uri in (tmp_path / "file", tmp_path / "file/inside"):
        bucket = open_bucket(str(uri))
        assert not bucket.exists("a") and bucket.list() == []
        for change in (lambda b: b.write("a", b""), lambda b: b.delete("a")):
            with pytest.raises(CallerError, match="cannot be written") as caught:
                change(bucket)
            assert str(uri) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_where_nothing_can_be_made_is_refused_in_one_line(tmp_path):
    # Not even root can make a folder in /proc; elsewhere, and for other users, a folder without write permission does.
    folder = Path("/proc") if Path("/proc/self").exists() else tmp_path / "closed"
    if folder == tmp_path / "closed":
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
    with pytest.raises(CallerError, match="cannot be written") as caught:
        open_bucket(str(folder / "data")).write("a", b"")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["", "there"])
def test_a_write_that_fails_leaves_none_of_the_folders_that_it_made(tmp_path, root):
    bucket = open_bucket(str(tmp_path / "bucket"))
    if root:
        bucket.write("there/a", b"")

    def write() -> None:
        with bucket.writing("there/deep/step-00000001/state.npz") as path:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(bucket.local("there/deep/step-00000001/state.npz"))
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(left) == (["bucket", "bucket/there", "bucket/there/a"] if root else [])


def test_what_a_killed_writer_left_is_swept_with_its_folder(bucket):
    bucket.write("kept/a", b"")
    kill_a_writer(bucket, "step-00000001/state.npz")
    kill_a_writer(bucket, "kept/b")
    bucket.sweep(lambda name: True)
    assert sorted(path.name for path in Path(bucket.uri).rglob("*")) == ["a", "kept"]


LOCKED = """
import sys
from pathlib import Path
from catdog.storage.lock import alone
with alone(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_who_has_a_lock_that_is_waited_for_is_told_and_the_wait_goes_on(bucket, caplog):
    bucket.write("a", b"")
    command = [sys.executable, "-c", LOCKED, str(bucket.local(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        swap = Thread(target=bucket.swap, args=("b", b"new", None))
        swap.start()
        deadline = time.monotonic() + 60
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.05)
        (told,) = caplog.messages
        assert told.endswith(f".lock: waiting for process {holder.pid} on {socket.gethostname()}, which has it locked")
        assert swap.is_alive() and not bucket.exists("b")
        holder.communicate(timeout=60)
    swap.join(60)
    assert bucket.read("b") == b"new"


def test_a_lock_that_another_process_never_lets_go_ends_the_wait(tmp_path):
    bucket = Folder(str(tmp_path), patience=0.5)
    bucket.write("a", b"")
    command = [sys.executable, "-c", LOCKED, str(bucket.local(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match=f"process {holder.pid} on .* has had it locked for"):
            bucket.swap("b", b"new", None)
        holder.communicate(timeout=60)


def test_what_is_waited_for_steers_no_terminal(tmp_path, caplog):
    bucket = Folder(f"{tmp_path}/\x1b[31mred", patience=2)
    bucket.write("a", b"")
    command = [sys.executable, "-c", LOCKED, str(bucket.local(".lock"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(RunError):
            bucket.swap("b", b"new", None)
        holder.communicate(timeout=60)
    assert caplog.messages and "\x1b" not in caplog.text


def test_folders_in_folders_beyond_any_count_are_swept(deep_folder):
    (deep_folder / ("d/" * DEEP) / ".part-abcdefgh-x").write_bytes(b"half")
    swept = []
    Folder(str(deep_folder)).sweep(lambda name: swept.append(name) or True)
    assert swept == ["d/" * DEEP + "x"]


def lay(path, kind):
    """Put what is no file at a path; `link` leads nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("/nowhere/x")}[kind](path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_neither_replaced_nor_deleted(bucket, kind):
    lay(bucket.local("a/b"), kind)
    before = bucket.local("a/b").lstat()
    for change in (lambda: bucket.write("a/b", b"x"), lambda: bucket.require_free(["a/b"])):
        with pytest.raises(CallerError, match=rf"a/b: is a {kind}.*; move it") as caught:
            change()
        assert "\n" not in str(caught.value)
    bucket.delete("a/b")
    assert bucket.local("a/b").lstat().st_ino == before.st_ino


@pytest.mark.parametrize("kind", ["pipe", "link", "file"])
def test_what_stands_in_the_way_of_a_folder_is_told(bucket, kind):
    bucket.write("a", b"") if kind == "file" else lay(bucket.local("a"), kind)
    with pytest.raises(CallerError, match=rf"/a: is a {kind}.*where a folder"):
        bucket.require_free(["a/b/c"])


@pytest.mark.parametrize("content", [b"mine", b"", b"3"])
def test_a_file_of_a_persons_that_is_named_like_the_test_of_writing_stays(bucket, content):
    bucket.write(".catdog-write-test", content)
    with pytest.raises(CallerError, match="write-test: is not catdog's"):
        bucket.require_writable()
    assert bucket.read(".catdog-write-test") == content


def test_a_test_of_writing_that_was_killed_is_no_hindrance(bucket):
    bucket.write(".catdog-write-test", b"2")
    bucket.require_writable()
    assert not bucket.exists(".catdog-write-test")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_lock_that_is_no_file_is_told_and_creates_none_elsewhere(bucket, tmp_path, kind):
    bucket.write("a", b"")
    if kind == "link":
        bucket.local(".lock").symlink_to(tmp_path / "elsewhere")
    else:
        lay(bucket.local(".lock"), kind)
    with pytest.raises(CallerError, match=r"\.lock: is (a link|no regular file), where catdog") as caught:
        bucket.swap("b", b"", None)
    assert "\n" not in str(caught.value) and not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="needs Linux's /proc, and to be root")
def test_a_link_to_what_gives_bytes_without_end_is_read_as_empty_and_waited_for_by_nobody(bucket, tmp_path):
    bucket.write("whole", b"bytes")
    (Path(bucket.uri) / "endless").symlink_to("/proc/kmsg")
    assert bucket.read("endless") == b""
    assert bucket.stat("endless").size == 0
    with pytest.raises(RunError, match="expected"):
        bucket.fetch("endless", bucket.stat("whole"), tmp_path / "fetched")
    with pytest.raises(Changed, match="was written anew"):
        bucket.open_pinned("endless", bucket.stat("whole"))


def test_links_to_folders_are_listed_once_and_loops_end(bucket, tmp_path):
    elsewhere = open_bucket(str(tmp_path / "elsewhere"))
    elsewhere.write("step/x", b"")
    bucket.write("real/a", b"")
    bucket.local("a_link").symlink_to(bucket.local("real"))
    bucket.local("real/loop").symlink_to(bucket.uri)
    bucket.local("real/there").symlink_to(elsewhere.uri)
    assert bucket.list() == ["real/a", "real/there/step/x"]
    assert bucket.list("real/there/") == ["real/there/step/x"]


def test_a_sweep_and_a_deletion_leave_what_a_link_leads_to(bucket, tmp_path):
    elsewhere = open_bucket(str(tmp_path / "elsewhere"))
    elsewhere.write("x", b"theirs")
    kill_a_writer(elsewhere, "y")
    before = sorted(path.name for path in tmp_path.joinpath("elsewhere").iterdir())
    assert len(before) == 2
    bucket.write("a", b"")
    bucket.local("step").symlink_to(elsewhere.uri)
    bucket.sweep(lambda name: True)
    bucket.delete("step/x")
    assert bucket.list() == ["a"]
    assert sorted(path.name for path in tmp_path.joinpath("elsewhere").iterdir()) == before
