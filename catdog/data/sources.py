"""Where labelled pictures come from: class folders, zip files, TensorFlow Datasets, the drawn sample.

To add a source: a function that yields `Item`s, and its name in `open_source`.
"""

import functools
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from catdog.data import drawn
from catdog.data.shards import CLASSES
from catdog.errors import CallerError

MAX_BYTES = 200_000_000
"""A larger file is not read."""


class Content(Protocol):
    """Encoded bytes that a worker process can fetch for itself."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class Item:
    """One candidate for the data set; `label` is None, with the reason, for what can't be one."""

    name: str
    label: int | None
    content: Content | None
    reason: str = ""


@dataclass(frozen=True)
class Opened:
    """A source's items, and how many there are, as far as it is known."""

    items: Iterator[Item]
    count: int | None


def open_source(source: str, seed: int) -> Opened:
    """The items of `drawn`, `folder:PATH` or `tfds:cats_vs_dogs`; raises CallerError that tells what is wrong."""
    kind, _, rest = source.partition(":")
    if source == "drawn":
        return Opened((Item(f"drawn-{i:05d}", i % 2, Drawn(seed, i)) for i in range(drawn.EXAMPLES)), drawn.EXAMPLES)
    if kind == "folder" and rest:
        path = Path(rest).expanduser()
        return _zip(path) if path.is_file() else _folder(path)
    if source == "tfds:cats_vs_dogs":
        return _tfds("cats_vs_dogs")
    raise CallerError(f"{source!r} is not a source: give drawn, folder:PATH or tfds:cats_vs_dogs")


@dataclass(frozen=True)
class Drawn:
    seed: int
    index: int

    def read(self) -> bytes:
        return drawn.draw(self.seed, self.index)[0]


@dataclass(frozen=True)
class File:
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Member:
    """A file in a zip archive."""

    archive: Path
    name: str

    def read(self) -> bytes:
        return _archive(self.archive).read(self.name)


@dataclass(frozen=True)
class Held:
    """Bytes that are at hand already."""

    content: bytes

    def read(self) -> bytes:
        return self.content


def class_of(name: str) -> int | None:
    """The label that a relative path tells: by its nearest folder named after a class, in the singular or the plural,
    in any case, else by the file name's start, as in `cat.123.jpg`."""
    path = PurePosixPath(name)
    for part in reversed(path.parts[:-1]):
        if (singular := part.lower().removesuffix("s")) in CLASSES:
            return CLASSES.index(singular)
    match = re.match(rf"({'|'.join(CLASSES)})[._-]", path.name.lower())
    return CLASSES.index(match.group(1)) if match else None


def _item(name: str, size: int, content: Content) -> Item:
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts) or path.name in (
        "Thumbs.db",
        "desktop.ini",
    ):
        return Item(name, None, None, "a hidden or system file")
    label = class_of(name)
    if label is None:
        return Item(name, None, None, f"neither a folder nor the file's name tells a class ({' or '.join(CLASSES)})")
    if size > MAX_BYTES:
        return Item(name, None, None, f"{size:,} bytes are more than the {MAX_BYTES:,} allowed")
    return Item(name, label, content)


def _folder(root: Path) -> Opened:
    if not root.is_dir():
        raise CallerError(f"folder:{root}: there is no such folder or zip file")

    def unreadable(error: OSError) -> None:
        raise CallerError(f"folder:{root}: cannot be read: {error.strerror}: {error.filename}")

    def walk() -> Iterator[Path]:
        for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
            subfolders.sort()
            for file in sorted(files):
                yield Path(folder, file)

    def items() -> Iterator[Item]:
        for path in walk():
            name = path.relative_to(root).as_posix()
            try:
                size = path.stat().st_size
            except OSError as error:
                yield Item(name, None, None, f"cannot be read: {error.strerror}")
            else:
                if path.is_file():
                    yield _item(name, size, File(path))

    return Opened(items(), sum(1 for _ in walk()))


def _zip(path: Path) -> Opened:
    try:
        members = [info for info in _archive(path).infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise CallerError(f"folder:{path}: is neither a folder nor a zip file that can be read: {error}") from None
    items = (_item(info.filename, info.file_size, Member(path, info.filename)) for info in members)
    return Opened(items, len(members))


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _tfds(name: str) -> Opened:
    import tensorflow_datasets as tfds

    builder = tfds.builder(name)
    try:
        builder.download_and_prepare()
    except Exception as error:  # a download fails in too many ways to name
        reason = " ".join(str(error).split())[:200]
        raise CallerError(
            f"tfds:{name}: could not be downloaded and checked: {reason}; get the pictures by hand and give folder:PATH,"
            " which also takes Microsoft's zip file as it is"
        ) from None
    names = builder.info.features["label"].names
    examples = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False)

    def items() -> Iterator[Item]:
        for example in examples.as_numpy_iterator():
            label = CLASSES.index(names[example["label"]])
            yield Item(example["image/filename"].decode(), label, Held(example["image"]))

    return Opened(items(), builder.info.splits["train"].num_examples)
