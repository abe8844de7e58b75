"""Exit codes, and what is said of a mistake or a failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.command.program import exit_code, signalled
from catdog.errors import CallerError, FinalError, RunError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (CallerError("x: no such folder"), 2, "program: error: x: no such folder"),
        (RunError("gone"), 1, "program: failed: gone"),
        (FinalError("gone for good"), 1, "program: failed: gone for good"),
        (KeyboardInterrupt(), 130, "program: interrupted"),
        (OSError(errno.ENOSPC, "No space left", "some/file"), 1, "program: failed: No space left: some/file"),
        (OSError(errno.ELOOP, "Too many links", b"some/\xff"), 1, "program: failed: Too many links: some/\\xff"),
        (OSError(errno.EXDEV, "Other device", "from", None, "to"), 1, "program: failed: Other device: to"),
        (MemoryError("9 GiB"), 1, "program: failed: not enough memory: 9 GiB"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "program: failed: Too many open files"),
        (
            RuntimeError("can't start new thread"),
            1,
            "program: failed: can't start new thread: the system allows no more",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_a_command_decides_its_code_and_is_told_in_one_line(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert exit_code("program", fail) == code
    assert capsys.readouterr() == ("", f"{told}\n")


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_command_that_ends_well_has_its_own_code(code: int) -> None:
    assert exit_code("program", lambda: code) == code


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError(errno.EBADF, "a bug"),
        OSError(errno.EBADF, "a bug", 7),
        OSError("a bug"),
        RuntimeError("a bug"),
    ],
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(type(error), match="a bug"):
        exit_code("program", fail)


def test_the_code_of_a_signal_is_that_of_shells() -> None:
    assert (signalled(2), signalled(15)) == (130, 143)


def test_an_error_of_a_command_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise CallerError("process 1 on \x1b[2Jhost")

    assert exit_code("program", fail) == 2
    assert capsys.readouterr().err == "program: error: process 1 on \\x1b[2Jhost\n"


def test_what_the_system_told_a_library_is_told_in_the_library_s_words(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        try:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")
        except OSError as error:
            raise OSError("no place for a cache; set CACHE") from error

    assert exit_code("program", fail) == 1
    assert capsys.readouterr().err == "program: failed: no place for a cache; set CACHE\n"


@pytest.mark.parametrize(
    "number", [errno.ENOTCONN, errno.ETIMEDOUT, errno.EUCLEAN, errno.ENODEV, errno.ENOTSUP, errno.ENXIO]
)
def test_a_trouble_of_a_mount_that_names_no_file_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise OSError(number, os.strerror(number))

    assert exit_code("program", fail) == 1
    assert capsys.readouterr().err == f"program: failed: {os.strerror(number)}\n"


@pytest.mark.parametrize("program", ["catdog", "job.train", "job.submit"])
def test_what_a_terminal_cannot_show_ends_no_program(program: str) -> None:
    show = (
        "from catdog.command.program import run_program; from catdog.errors import tell;"
        f"run_program({program!r}, lambda: tell('猫') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, check=True
    )
    assert done.stdout == b"\\u732b\n"


def test_a_working_folder_that_was_deleted_is_told(tmp_path: Path) -> None:
    words = (
        "import os, sys; os.rmdir(sys.argv[1]); from catdog.__main__ import main; sys.argv[1:] = ['runs', '/']; main()"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run([sys.executable, "-c", words, gone], cwd=gone, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "catdog: error: the folder that this shell is in was deleted: go to one that is there\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux'")
def test_a_full_disk_behind_standard_output_is_told_as_that() -> None:
    words = (
        "from catdog.command.program import run_program; from catdog.errors import tell;"
        "run_program('p', lambda: tell('x') or 0)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "p: failed: No space left on device: standard output\n")
