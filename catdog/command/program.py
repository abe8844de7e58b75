"""What a program of this repository is wrapped in: one line for what ends it, its exit code, its standard streams."""

import errno
import importlib.util
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from catdog.errors import CallerError, RunError, Stopped, one_line, tell

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# Mistakes of this program, where the system's error names no file; all others are troubles of the machine.
_OURS = (
    None,
    errno.EBADF,
    errno.EINVAL,
    errno.EFAULT,
    errno.ENOTTY,
    errno.ESPIPE,
    errno.ECHILD,
    errno.ESRCH,
    errno.EXDEV,
)


def signalled(number: int) -> int:
    """The exit code of a process that was asked to end by the signal of this number, as shells tell it."""
    return 128 + number


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
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        _tell(f"{program}: failed: {one_line(error)}: the system allows no more")
        return FAILED
    except OSError as error:
        if not _flushed(program) or (isinstance(error, BrokenPipeError) and _reader_has_gone()):
            return FAILED
        named = [name for name in (error.filename2, error.filename) if isinstance(name, str | bytes | os.PathLike)]
        numbers = {error.errno, getattr(error.__cause__, "errno", None)}  # a library may tell it in its own words
        if not named and numbers <= {*_OURS}:
            raise
        path = [os.fsencode(name).decode(errors="backslashreplace") for name in named[:1]]
        _tell(": ".join([f"{program}: failed", error.strerror or one_line(error), *path]))
        return FAILED


def _require_system(program: str) -> None:
    """Raises CallerError on a system without what we ask of it, and in no folder."""
    if sys.platform == "win32" or importlib.util.find_spec("fcntl") is None:
        raise CallerError(f"{program} needs Linux or macOS; on Windows, run it in WSL 2 or in the container")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise CallerError("the folder that this shell is in was deleted: go to one that is there") from None


def _open_closed_streams() -> None:
    """The next file that is opened would take a closed one's number, and get what libraries print there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, errors="backslashreplace", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a name that cannot be shown ends no command


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
