"""The exceptions that a command turns into a single line, and the exit codes of all commands."""

import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# Troubles of the machine, not of this program: they are told without a traceback.
_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


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


def one_line(error: Exception) -> str:
    """An error's message with its line breaks taken out, or its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


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
    except Stopped as stopped:
        print(f"{program}: {stopped}; the same command goes on from there", file=sys.stderr)
        return signalled(stopped.number)
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
