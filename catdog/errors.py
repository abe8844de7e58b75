"""The exceptions that a command turns into a single line, and the exit codes of all commands."""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# Troubles of the machine, not of this program: they are told without a traceback.
_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class CallerError(Exception):
    """A mistake that the caller can mend: its message is one line that says what, where and what would be right."""


class HeldError(CallerError):
    """A run that another process is training."""


class RunError(Exception):
    """A run that cannot go on through no fault of the command line: its message is one line; exit code 1."""


class FinalError(RunError):
    """A run that would fail in the same way if it were started again."""


def one_line(error: Exception) -> str:
    """An error's message with its line breaks taken out, or its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(word: object, known: Iterable[str], show: Callable[[str], str] = str, cutoff: float = 0.6) -> str:
    """`did you mean NAME?`, with the known name that is most like a word as `show` writes it; empty where none is like it."""
    near = difflib.get_close_matches(str(word), list(known), 1, cutoff)
    return f"did you mean {show(near[0])}?" if near else ""


def signalled(number: int) -> int:
    """The exit code of a process that was asked to end by the signal of this number, as shells tell it."""
    return 128 + number


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Run a command and give its exit code; a mistake or a failure is told in one line on stderr."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except CallerError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return MISTAKE
    except RunError as error:
        print(f"{program}: failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; without this Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        print(f"{program}: failed: {error.strerror}: {error.filename or 'no file named'}", file=sys.stderr)
        return FAILED
