"""Exit codes, and what is said of a mistake or a failure."""

import errno

import pytest

from catdog.errors import (
    CallerError,
    FinalError,
    RunError,
    did_you_mean,
    exit_code,
    one_line,
    printable,
    signalled,
    tell,
)


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
    "error", [ValueError("a bug"), OSError(errno.EBADF, "a bug"), OSError(errno.EBADF, "a bug", 7), OSError("a bug")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(type(error), match="a bug"):
        exit_code("program", fail)


def test_the_code_of_a_signal_is_that_of_shells() -> None:
    assert (signalled(2), signalled(15)) == (130, 143)


@pytest.mark.parametrize(
    ("error", "told"), [(ValueError("a\n  b\tc"), "a b c"), (ValueError(), "ValueError"), (OSError(" "), "OSError")]
)
def test_an_error_of_any_kind_becomes_one_line(error: Exception, told: str) -> None:
    assert one_line(error) == told


def test_the_most_like_of_the_known_names_is_meant_if_any_is_like_it() -> None:
    known = ("train", "trainer", "predict")
    assert did_you_mean("trian", known) == "did you mean train?"
    assert did_you_mean("pedict", known, repr) == "did you mean 'predict'?"
    assert did_you_mean("qqq", known) == did_you_mean("x", ()) == ""
    assert did_you_mean("tra", known, cutoff=0.9) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("größer 猫 👩‍👧\u3000\u202fPM.jpg", "größer 猫 👩‍👧\u3000\u202fPM.jpg"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m\x85\x7f\0", "\\x9b31m\\x85\\x7f\\x00"),
        ("a\r\n\tb\u2028c", "a\\r\\n\\tb\\u2028c"),
        ("cat\u202egpj.exe\u2066\u200f", "cat\\u202egpj.exe\\u2066\\u200f"),
        ("latin-\udce9.jpg \ud800", "latin-\\xe9.jpg \\ud800"),
        ("\U000e0041\ufeff\ufff9", "\\U000e0041\\ufeff\\ufff9"),
        ("[red]cat[/red] :dog:", "[red]cat[/red] :dog:"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_an_escape_and_all_else_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == printable(shown) == shown


def test_a_line_keeps_its_cells_apart_and_is_one_line_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\tb", "c\nd\x1b]0;title\x07")
    assert capsys.readouterr() == ("a\\tb\tc\\nd\\x1b]0;title\\x07\n", "")


def test_an_error_of_a_command_and_one_in_one_line_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise CallerError("process 1 on \x1b[2Jhost")

    assert exit_code("program", fail) == 2
    assert capsys.readouterr().err == "program: error: process 1 on \\x1b[2Jhost\n"
    assert one_line(ValueError("\x1b[2J")) == "\\x1b[2J"


def test_what_the_system_told_a_library_is_told_in_the_library_s_words(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        try:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")
        except OSError as error:
            raise OSError("no place for a cache; set CACHE") from error

    assert exit_code("program", fail) == 1
    assert capsys.readouterr().err == "program: failed: no place for a cache; set CACHE\n"
