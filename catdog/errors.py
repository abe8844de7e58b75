"""The exceptions that a program turns into a single line, and how what others have named is shown."""

import contextlib
import difflib
import errno
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

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
    try:
        print(*map(printable, cells), sep="\t", file=file, flush=True)
    except OSError as error:
        error.filename = error.filename or ("standard output" if file in (None, sys.stdout) else "standard error")
        raise


def warn(text: str) -> None:
    """Log a warning in one line that may be shown: the way of all parts that hold names of others."""
    logging.getLogger("catdog").warning("%s", printable(text))


def did_you_mean(word: object, known: Iterable[str], show: Callable[[str], str] = str, cutoff: float = 0.6) -> str:
    """`did you mean NAME?`, with the known name that is most like a word as `show` writes it; empty where none is like it."""
    near = difflib.get_close_matches(str(word), list(known), 1, cutoff)
    return f"did you mean {show(near[0])}?" if near else ""


def hint(word: object, known: Sequence[str], show: Callable[[str], str] = str, cutoff: float = 0.6) -> str:
    """What was meant by a word that is none of the known ones, or else which there are."""
    return did_you_mean(word, known, show, cutoff) or (f"there are {', '.join(known)}" if known else "it takes none")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the error of a write, which does not tell of what file it is, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_WRITES and error.filename is None:
            error.filename = str(path)
        raise
