"""The exceptions that a command turns into a single line, and the exit codes of all commands."""

import contextlib
import difflib
import errno
import importlib.util
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# Troubles of the machine, not of this program, even where the system's error names no file.
_OUTSIDE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOLCK, errno.EPIPE),
)

_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)


# Spaces of other widths than ours, and the joiners of Persian words and of emoji: names are written with them.
_INVISIBLE = (
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\u1680\u200c\u200d"
)


class CallerError(Exception):
    """A mistake that the caller can mend: its message is one line that says what, where and what would be right."""


class HeldError(CallerError):
    """A run or a data set that another process is at work on."""


class RunError(Exception):
    """A run that cannot go on through no fault of the command line: its message is one line; exit code 1."""


class FinalError(RunError):
    """A run that would fail in the same way if it were started again."""


class Stopped(Exception):
    """The run was asked to stop and its state is committed; run it again and it goes on from `step`."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(number, step)  # from which a copy in another process is made
        self.number = number
        self.step = step

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name} at step {self.step}, which is committed"


def printable(text: str) -> str:
    """Text as it may be shown: characters that steer a terminal or the order of others stand as `\\x1b` or `\\u202e`.

    So do line breaks, tabs, and what is no character at all; a byte of a file's name that is no UTF-8 stands as `\\xff`.
    """
    return "".join(c if c.isprintable() or c in _INVISIBLE else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def one_line(error: Exception) -> str:
    """An error's message as it may be shown, with its line breaks taken out, or its type's name if it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def tell(*cells: str, file: TextIO | None = None) -> None:
    """Print a line of cells, with tabs between them, on stdout or `file`: the way of all that holds names of others."""
    print(*map(printable, cells), sep="\t", file=file, flush=True)


def did_you_mean(word: object, known: Iterable[str], show: Callable[[str], str] = str, cutoff: float = 0.6) -> str:
    """`did you mean NAME?`, with the known name that is most like a word as `show` writes it; empty where none is like it."""
    near = difflib.get_close_matches(str(word), list(known), 1, cutoff)
    return f"did you mean {show(near[0])}?" if near else ""


def hint(word: object, known: Sequence[str], show: Callable[[str], str] = str, cutoff: float = 0.6) -> str:
    """What was meant by a word that is none of the known ones, or else which there are."""
    return did_you_mean(word, known, show, cutoff) or (f"there are {', '.join(known)}" if known else "it takes none")


def signalled(number: int) -> int:
    """The exit code of a process that was asked to end by the signal of this number, as shells tell it."""
    return 128 + number


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the error of a write, which does not tell of what file it is, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_WRITES and error.filename is None:
            error.filename = str(path)
        raise


def run_program(program: str, command: Callable[[], int]) -> NoReturn:
    """Be a program that does what a command does, and end with its exit code.

    The command imports for itself what takes long or is not to be had on every system, so that what comes in the way of
    that is told in one line as well.
    """
    try:
        sys.exit(exit_code(program, command))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python ends, another Ctrl-C would be a traceback


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Run a command and give its exit code; a mistake or a failure is told in one line on stderr.

    A trouble that the system tells of a file is one line as well; any other OSError is raised, for it is a mistake of
    ours. Where stdin, stdout or stderr is closed, what is read is empty and what is printed goes nowhere.
    """
    _open_closed_streams()
    try:
        code = _told(program, command)
    except SystemExit as stop:
        if _flushed(program):
            raise
        raise SystemExit(stop.code or FAILED) from None
    return code if _flushed(program) else code or FAILED


def _told(program: str, command: Callable[[], int]) -> int:
    try:
        _require_system(program)
        return command()
    except CallerError as error:
        _tell(f"{program}: error: {error}")
        return MISTAKE
    except RunError as error:
        _tell(f"{program}: failed: {error}")
        return FAILED
    except Stopped as stopped:
        _tell(f"{program}: {stopped}; the same command goes on from there")
        return signalled(stopped.number)
    except KeyboardInterrupt:
        _tell(f"{program}: interrupted")
        return INTERRUPTED
    except MemoryError as error:
        _tell(f"{program}: failed: not enough memory: {one_line(error)}")
        return FAILED
    except OSError as error:
        if not _flushed(program) or (isinstance(error, BrokenPipeError) and _reader_has_gone()):
            return FAILED
        named = [name for name in (error.filename2, error.filename) if isinstance(name, str | bytes | os.PathLike)]
        numbers = {error.errno, getattr(error.__cause__, "errno", None)}  # a library may tell it in its own words
        if not named and not numbers & {*_OUTSIDE}:
            raise
        path = [os.fsencode(name).decode(errors="backslashreplace") for name in named[:1]]
        _tell(": ".join([f"{program}: failed", error.strerror or one_line(error), *path]))
        return FAILED


def _require_system(program: str) -> None:
    """Raises CallerError on a system without what we ask of it."""
    if sys.platform == "win32" or importlib.util.find_spec("fcntl") is None:
        raise CallerError(f"{program} needs Linux or macOS; on Windows, run it in WSL 2 or in the container")


def _open_closed_streams() -> None:
    """The next file that is opened would take a closed one's number, and get what libraries print there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, errors="backslashreplace", closefd=False))  # noqa: SIM115


def _tell(text: str) -> None:
    try:
        tell(text, file=sys.stderr)
    except OSError:
        _give_up(sys.stderr)


def _flushed(program: str) -> bool:
    """Whether all that was printed has left; why it has not is told, unless whoever read it has gone."""
    try:
        sys.stdout.flush()
        return True
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _tell(f"{program}: failed: {error.strerror}: standard output")
        _give_up(sys.stdout)
        return False


def _reader_has_gone() -> bool:
    """Whether nobody reads what is printed on stdout or stderr any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return bool(poll.poll(0))  # of which errors and hang-ups are told unasked


def _give_up(stream: TextIO) -> None:
    """Let go of what cannot be written: Python would complain of it when it ends, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
