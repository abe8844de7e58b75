"""Small pictures for the tests of the data set: each index another, encoded in any format."""

import contextlib
import io
import os
import signal
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared"
DEEP = 1100
"""Folders in each other that `deep_folder` has: more than the calls that Python allows in each other."""


def picture(index: int, width: int = 48, height: int = 40) -> Image.Image:
    """An RGB picture of soft blobs."""
    coarse = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans(count: int) -> bytes:
    """A progressive JPEG with its last scan as often as makes so many scans of it."""
    content = encoded(picture(1), progressive=True)
    start, scans = content.rindex(b"\xff\xda"), content.count(b"\xff\xda")
    return content[:start] + content[start:-2] * (count - scans + 1) + content[-2:]


Entries = Mapping[int, "int | bytes | Image.Image | Sequence[Entries]"]


def tiff_of(*pages: Entries, order: str = "<") -> bytes:
    """A TIFF of directories: numbers, texts, a picture for tag 273, and for tag 330 directories below it."""
    content = bytearray(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")

    def added(more: bytes) -> int:
        content.extend(more + bytes(-len(more) % 4))
        return len(content) - len(more) - (-len(more) % 4)

    def directory(entries: Entries) -> int:
        rows = []
        for tag, value in sorted(entries.items()):
            kind, count = 4, 1
            if isinstance(value, Image.Image):
                value = added(value.tobytes())
            elif isinstance(value, bytes):
                kind, count = 2, len(value)
                value = added(value) if count > 4 else struct.unpack(order + "I", value.ljust(4, b"\0"))[0]
            elif not isinstance(value, int):
                places = [directory(below) for below in value]
                count = len(places)
                value = places[0] if count == 1 else added(struct.pack(f"{order}{count}I", *places))
            rows.append(struct.pack(order + "HHII", tag, kind, count, value))
        return added(struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4))

    link = 4
    for page in pages:
        struct.pack_into(order + "I", content, link, at := directory(page))
        link = at + 2 + 12 * len(page)
    return bytes(content)


def rgb_page(image: Image.Image, **more: object) -> Entries:
    """The directory of an uncompressed colour picture; `more` are other tags, as t254."""
    size = {256: image.width, 257: image.height, 278: image.height, 279: 3 * image.width * image.height}
    rest = {258: 8, 259: 1, 262: 2, 273: image, 277: 3}
    return size | rest | {int(name[1:]): value for name, value in more.items()}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def damaged(content: bytes, at: int | None = None) -> bytes:
    """The content with one bit turned, in its middle byte if no other is given."""
    changed = bytearray(content)
    changed[len(content) // 2 if at is None else at] ^= 0x10
    return bytes(changed)


def class_folders(root: Path, cats: int, dogs: int) -> Path:
    """`root`/cat/0.jpg … and `root`/dog/…, each picture another."""
    for name, first, count in (("cat", 0, cats), ("dog", 10_000, dogs)):
        for index in range(count):
            write(root / name / f"{index}.jpg", encoded(picture(first + index)))
    return root


@contextlib.contextmanager
def thread_pool() -> Iterator[Executor]:
    """In the place of a pool of processes, whose start takes longer than the work on a few pictures."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Deadly:
    """The content of a picture that ends the process that reads it, as the kernel does when memory runs out."""

    def read(self) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
