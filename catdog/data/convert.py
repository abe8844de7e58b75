"""The items of a source → pictures as they are stored, on all cores; their bytes lie in one spool file."""

import contextlib
import hashlib
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from catdog.data.confined import require_machine
from catdog.data.images import decode, encode
from catdog.data.near_duplicates import difference_hash
from catdog.data.picture import Picture, Skipped
from catdog.data.process_pool import cores, process_pool
from catdog.data.sources import Item, Opened
from catdog.errors import naming, one_line

_TOGETHER = 16
"""Pictures that a process is given at once."""

Stored = tuple[bytes, int, int, bytes]
"""JPEG bytes, height and width, and the picture's hash."""


@contextlib.contextmanager
def spool_file(folder: Path) -> Iterator[BinaryIO]:
    """A nameless file, whose name in an error is that of its folder."""
    spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        yield spool
    finally:
        with naming(folder):
            spool.close()


def convert(opened: Opened, side: int, spool: BinaryIO, scratch: Path) -> tuple[list[Picture], list[Skipped]]:
    """Every item decoded, fitted to `side` pixels and written to the spool, with a bar on stderr; and those that cannot be.

    Raises OSError, named after the folder `scratch` that the spool lies in, when that is full.
    """
    pictures: list[Picture] = []
    skipped: list[Skipped] = []
    columns = [
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=opened.count, rate=0.0)
        began = time.monotonic()
        for item, outcome in _in_processes(opened.items, side):
            if isinstance(outcome, str):
                skipped.append(Skipped(item.name, outcome))
            else:
                jpeg, height, width, hash_ = outcome
                digest = hashlib.sha256(jpeg).hexdigest()
                assert item.label is not None
                place = spool.tell(), len(jpeg)
                pictures.append(Picture(item.name, item.label, digest, height, width, *place, hash_))
                with naming(scratch):
                    spool.write(jpeg)
            done = len(pictures) + len(skipped)
            progress.update(task, completed=done, rate=done / (time.monotonic() - began))
    return pictures, skipped


def _in_processes(items: Iterator[Item], side: int) -> Iterator[tuple[Item, Stored | str]]:
    """Each item with what is stored of it, or the reason why that is nothing; a bounded number is under way."""
    waiting: deque[tuple[list[Item], Future[list[Stored | str]]]] = deque()

    def finished() -> Iterator[tuple[Item, Stored | str]]:
        batch, future = waiting.popleft()
        yield from zip(batch, future.result(), strict=True)

    with process_pool() as pool:
        while batch := list(itertools.islice(items, _TOGETHER)):
            waiting.append((batch, pool.submit(_convert, batch, side)))
            if len(waiting) > 2 * cores():
                yield from finished()
        while waiting:
            yield from finished()


def _convert(batch: list[Item], side: int) -> list[Stored | str]:
    return [_converted(item, side) for item in batch]


def _converted(item: Item, side: int) -> Stored | str:
    if item.content is None:
        return item.reason
    try:
        picture = decode(item.content.read(), side)
        return *encode(picture, side), difference_hash(picture)
    except Exception as error:  # a file that cannot be read must not end the work on the others
        require_machine(error, item.name)
        return (isinstance(error, OSError) and error.strerror) or one_line(error)
