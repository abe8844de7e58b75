"""Where labelled pictures come from: class folders, zip files, TensorFlow Datasets, the drawn sample.

To add a source: a function that gives `Opened`, and its name in `open_source` and `require_source`.
"""

import contextlib
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from catdog.data import drawn_pictures
from catdog.data.example import Value, decode_example
from catdog.data.picture_bytes import Unreadable
from catdog.data.shards import CLASSES
from catdog.data.tfrecord import checked_payload, record_index
from catdog.data.zip_members import zip_members
from catdog.errors import CallerError, RunError
from catdog.storage import expanded, unwaiting

MAX_BYTES = 200_000_000
"""A larger file is not read."""
NESTED = "a zip file of its own"
"""How the reason for a zip file among the pictures begins."""


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


def require_source(source: str) -> None:
    """Raise CallerError for what is none by its name, with what would be right."""
    if source in ("drawn", "tfds:cats_vs_dogs") or (source.startswith("folder:") and source != "folder:"):
        return
    is_path = not re.match(r"\w*:", source) and (
        source.startswith(("~", ".")) or "/" in source or os.path.exists(source)
    )
    if source == "folder:":
        raise CallerError("folder: names no folder, as with a variable that is not set: give folder:PATH")
    meant = f"give folder:{source}" if is_path and source else "give drawn, folder:PATH or tfds:cats_vs_dogs"
    raise CallerError(f"{source!r} is not a source: {meant}")


def open_source(source: str, seed: int) -> Opened:
    """The items of `drawn`, `folder:PATH` or `tfds:cats_vs_dogs`; raises CallerError that tells what is wrong."""
    require_source(source)
    kind, _, rest = source.partition(":")
    if source == "drawn":
        return Opened(
            (Item(f"drawn-{i:05d}", i % 2, Drawn(seed, i)) for i in range(drawn_pictures.EXAMPLES)),
            drawn_pictures.EXAMPLES,
        )
    if kind == "folder":
        path = expanded(rest)
        return _zip(path) if path.is_file() else _folder(path)
    return _tfds(rest)


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
        """The bytes that it declares to hold; raises OSError, and Unreadable for what is no regular file or too large.

        What in /proc gives bytes without end, or waits for them, declares to be empty.
        """
        with open(self.path, "rb", opener=unwaiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("no regular file")
            if status.st_size > MAX_BYTES:
                raise Unreadable(_too_large(status.st_size))
            return file.read(status.st_size)


@dataclass(frozen=True)
class Record:
    """A `tf.train.Example` in a TFRecord file, with the picture under `image`."""

    path: Path
    offset: int
    length: int

    def features(self) -> dict[str, Value]:
        with open(self.path, "rb") as file:
            return decode_example(checked_payload(file, self.offset, self.length))

    def read(self) -> bytes:
        content = self.features().get("image")
        if not isinstance(content, bytes):
            raise ValueError("the record holds no picture")
        return content


_FLAT = re.compile(rf"({'|'.join(CLASSES)})(?:[._-]|s?[ ._-]*\(?[0-9]+\)?(?:[ ._-]|$))")
"""The beginning of a file's name that tells a class: `cat.`, or as Windows and others number files, `cat (1)`, `cat1`."""


def class_of(name: str) -> int | None:
    """The label that a relative path tells: by its nearest folder named after a class, in the singular or the plural,
    in any case, else by the file name's start, as in `cat.123.jpg` or `cat (1).jpg`."""
    path = PurePosixPath(name)
    for part in reversed(path.parts[:-1]):
        if (singular := part.lower().removesuffix("s")) in CLASSES:
            return CLASSES.index(singular)
    match = _FLAT.match(path.name.lower())
    return CLASSES.index(match.group(1)) if match else None


def _item(name: str, size: int, content: Content) -> Item:
    path = PurePosixPath(name)
    if not path.name:
        return Item(name, None, None, "has no name")
    system = path.name in ("Thumbs.db", "desktop.ini") or path.parts[0] == "__MACOSX"
    if system or any(part.startswith(".") and part != ".." for part in path.parts):
        return Item(name, None, None, "a hidden or system file")
    if path.suffix.lower() == ".zip":
        return Item(name, None, None, f"{NESTED}: give folder:PATH/{path.name}, unpacked if it lies in another")
    label = class_of(name)
    if label is None:
        return Item(name, None, None, f"neither a folder nor the file's name tells a class ({' or '.join(CLASSES)})")
    if size > MAX_BYTES:
        return Item(name, None, None, _too_large(size))
    return Item(name, label, content)


def _too_large(size: int) -> str:
    return f"{size:,} bytes are more than the {MAX_BYTES:,} allowed"


def _folder(root: Path) -> Opened:
    if not root.is_dir():
        raise CallerError(f"folder:{root}: there is no such folder or zip file")
    paths = [path for _, files in _folders(root) for path in files]
    return Opened((_file(root, path) for path in paths), len(paths))


def holds(source: str, place: Path) -> bool:
    """Whether what is written at a path would be among the files of a source, by a link too."""
    kind, _, rest = source.partition(":")
    if kind != "folder" or not (root := expanded(rest)).is_dir():
        return False
    nearest = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists()).stat()
    return any(folder == (nearest.st_dev, nearest.st_ino) for folder, _ in _folders(root))


def _file(root: Path, path: Path) -> Item:
    name = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
    try:
        status = path.stat()
    except OSError as error:
        return Item(name, None, None, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Item(name, None, None, "no regular file")
    return _item(name, status.st_size, File(path))


def _folders(root: Path) -> Iterator[tuple[tuple[int, int], list[Path]]]:
    """A folder and those below it: the device and the number of each, and its files.

    Links to folders are followed, but no folder is entered twice, so loops end.
    """
    entered: set[tuple[int, int]] = set()
    linked = deque([root])
    while linked:
        waiting = [linked.popleft()]
        while waiting:  # no call for each folder in a folder: Python allows a thousand, and a path may be deeper
            folder = waiting.pop()
            try:
                status = folder.stat()
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                raise CallerError(f"folder:{root}: cannot be read: {error.strerror}: {error.filename}") from None
            if (key := (status.st_dev, status.st_ino)) in entered:
                continue
            entered.add(key)
            files, inside = [], []
            for entry in entries:
                if not _is_folder(entry):
                    files.append(Path(entry.path))
                elif entry.is_symlink():
                    linked.append(Path(entry.path))
                else:
                    inside.append(Path(entry.path))
            yield key, files
            waiting += reversed(inside)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, or in a circle
        return False


def _zip(path: Path) -> Opened:
    members = zip_members(path)
    return Opened((_item(*member) for member in members), len(members))


def _labelled(record: Record, labels: Sequence[int]) -> Item:
    """A record of TensorFlow Datasets as an item; one that is none is left out with the reason."""
    try:
        features = record.features()
    except ValueError as error:
        return Item(f"{record.path.name} at {record.offset}", None, None, str(error))
    file, label = features.get("image/filename"), features.get("label")
    if not isinstance(file, bytes) or not isinstance(label, int) or label >= len(labels):
        return Item(f"{record.path.name} at {record.offset}", None, None, "the record has no file's name or no label")
    return Item(file.decode(errors="backslashreplace"), labels[label], record)


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
        known = ", as Microsoft's file has before (huggingface/datasets#4032)" if "Checksum" in reason else ""
        raise CallerError(
            f"tfds:{name}: could not be downloaded and checked ({reason}){known}: get the pictures by hand and give"
            " folder:PATH, which also takes that zip file as it is"
        ) from None
    labels = [CLASSES.index(label) for label in builder.info.features["label"].names]
    train = builder.info.splits["train"]

    def items() -> Iterator[Item]:
        for path in train.filepaths:
            try:
                with open(path, "rb") as shard:
                    index = record_index(shard)
            except ValueError as error:
                raise RunError(f"tfds:{name}: {error}; delete its folder to download it again") from None
            for offset, length in index.tolist():
                yield _labelled(Record(Path(path), offset, length), labels)

    return Opened(items(), train.num_examples)
