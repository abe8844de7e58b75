"""Where labelled pictures come from: class folders, zip files, TensorFlow Datasets, the drawn sample.

To add a source: a function that yields `Item`s, and its name in `open_source`.
"""

import contextlib
import functools
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from catdog.data import drawn_pictures
from catdog.data.example import Value, decode_example
from catdog.data.shards import CLASSES
from catdog.data.tfrecord import record_index
from catdog.errors import CallerError
from catdog.storage import expanded

MAX_BYTES = 200_000_000
"""A larger file is not read."""


class Content(Protocol):
    """Encoded bytes that a worker process can fetch for itself."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class Item:
    """One candidate for the data set; `label` is None, with the reason, for what can't be one.

    `name` is text that can be written as UTF-8; bytes of a file's name that are none stand in it as `\\xff`.
    """

    name: str
    label: int | None
    content: Content | None
    reason: str = ""


@dataclass(frozen=True)
class Opened:
    """A source's items, and how many there are."""

    items: Iterator[Item]
    count: int


def open_source(source: str, seed: int) -> Opened:
    """The items of `drawn`, `folder:PATH` or `tfds:cats_vs_dogs`; raises CallerError that tells what is wrong."""
    kind, _, rest = source.partition(":")
    if source == "drawn":
        return Opened(
            (Item(f"drawn-{i:05d}", i % 2, Drawn(seed, i)) for i in range(drawn_pictures.EXAMPLES)),
            drawn_pictures.EXAMPLES,
        )
    if kind == "folder" and rest:
        path = expanded(rest)
        return _zip(path) if path.is_file() else _folder(path)
    if source == "tfds:cats_vs_dogs":
        return _tfds("cats_vs_dogs")
    raise CallerError(f"{source!r} is not a source: give drawn, folder:PATH or tfds:cats_vs_dogs")


@dataclass(frozen=True)
class Drawn:
    seed: int
    index: int

    def read(self) -> bytes:
        return drawn_pictures.draw(self.seed, self.index)[0]


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
class Record:
    """A `tf.train.Example` in a TFRecord file, with the picture under `image`."""

    path: Path
    offset: int
    length: int

    def features(self) -> dict[str, Value]:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return decode_example(file.read(self.length))

    def read(self) -> bytes:
        content = self.features()["image"]
        assert isinstance(content, bytes)
        return content


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
    system = path.name in ("Thumbs.db", "desktop.ini") or path.parts[0] == "__MACOSX"
    if system or any(part.startswith(".") for part in path.parts):
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
    paths = list(_files(root))
    return Opened((_file(root, path) for path in paths), len(paths))


def _file(root: Path, path: Path) -> Item:
    name = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
    try:
        status = path.stat()
    except OSError as error:
        return Item(name, None, None, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Item(name, None, None, "no regular file")
    return _item(name, status.st_size, File(path))


def _files(root: Path) -> Iterator[Path]:
    """Every file below a folder. Links to folders are followed, but no folder is entered twice, so loops end."""

    def unreadable(error: OSError) -> None:
        raise CallerError(f"folder:{root}: cannot be read: {error.strerror}: {error.filename}")

    entered: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        for folder, subfolders, files in os.walk(waiting.pop(0), onerror=unreadable):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders.sort()
            waiting += [path for name in subfolders if (path := Path(folder, name)).is_symlink()]
            yield from (Path(folder, file) for file in sorted(files))


def _zip(path: Path) -> Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        raise CallerError(f"folder:{path}: is neither a folder nor a zip file that can be read: {error}") from None
    # Some Windows programs write backslashes between the parts of a name.
    items = (_item(i.filename.replace("\\", "/"), i.file_size, Member(path, i.filename)) for i in members)
    return Opened(items, len(members))


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _tfds(name: str) -> Opened:
    """The examples of a data set that TensorFlow Datasets downloads, checks and keeps; its records are read without it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # raised where TensorFlow has taken them already
        tf.config.set_visible_devices([], "GPU")  # the pictures are decoded on the CPU; others may need the GPUs
    try:
        builder = tfds.builder(name, file_format="tfrecord")
        builder.download_and_prepare()
    except ImportError:  # a broken installation
        raise
    except Exception as error:  # a download fails in too many ways to name
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CallerError(
            f"tfds:{name}: could not be downloaded and checked ({reason}); the network may be down, or Microsoft's file may no"
            " longer match the checksum (huggingface/datasets#4032): get the pictures by hand and give folder:PATH,"
            " which also takes that zip file as it is"
        ) from None
    labels = [CLASSES.index(label) for label in builder.info.features["label"].names]
    train = builder.info.splits["train"]

    def items() -> Iterator[Item]:
        for path in train.filepaths:
            with open(path, "rb") as shard:
                index = record_index(shard)
            for offset, length in index.tolist():
                record = Record(Path(path), offset, length)
                features = record.features()
                file, label = features["image/filename"], features["label"]
                assert isinstance(file, bytes) and isinstance(label, int)
                yield Item(file.decode(), labels[label], record)

    return Opened(items(), train.num_examples)
