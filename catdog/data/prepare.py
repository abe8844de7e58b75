"""A source → a data set: decoded, deduplicated, split, shuffled, sharded, and only then given its manifest."""

import contextlib
import csv
import hashlib
import io
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from catdog.data.example import encode_example
from catdog.data.images import decode, encode
from catdog.data.options import PrepareOptions
from catdog.data.process_pool import cores, process_pool
from catdog.data.shards import CLASSES, MANIFEST, SHARD_NAME, SKIPPED, SPLITS, Manifest, Shard, load_manifest
from catdog.data.sources import Item, Opened, open_source
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError, naming, one_line
from catdog.storage import Bucket

_TOGETHER = 16
"""Pictures that a process is given at once."""

Stored = tuple[bytes, int, int]
"""JPEG bytes, height and width."""


@dataclass(frozen=True)
class Picture:
    """One picture as it will be stored; its bytes lie in the spool file."""

    name: str
    label: int
    digest: str
    """SHA-256 of the stored JPEG: the picture's identity, on which split and order rest."""
    height: int
    width: int
    offset: int
    length: int


@dataclass(frozen=True)
class Skipped:
    name: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    manifest: Manifest
    skipped: int
    written: bool
    """Whether anything was done; not when the data set was there already and was to be reused."""


def prepare(
    source: str,
    bucket: Bucket,
    options: PrepareOptions = PrepareOptions(),  # noqa: B008
    *,
    overwrite: bool = False,
    reuse: bool = False,
) -> Prepared:
    """Write a data set, its manifest last; the same pictures and options give the same bytes.

    With `overwrite` the data set that is there is replaced; with `reuse` one of the same source and options is left as
    it is. Raises CallerError for anything that the caller can mend.
    """
    if MANIFEST in bucket.list(MANIFEST) and not overwrite:  # a list tells of a bucket that is not there
        return Prepared(_reused(source, options, bucket, reuse), 0, written=False)
    opened = open_source(source, options.seed)
    # The converted pictures lie in a nameless file until all are known: beside the shards, where there is room for them.
    scratch = bucket.scratch()
    with _spool(scratch) as spool:
        pictures, unusable = _convert_all(opened, options.side, spool, scratch)
        pictures, repeated = _unique(pictures)
        skipped = sorted([*unusable, *repeated], key=lambda s: (s.name, s.reason))
        _refuse_missing(source, pictures, skipped)
        splits = split(pictures, options)
        counts = _shard_counts(splits, options.shards)
        _clear(bucket)
        written = [shard for name in SPLITS for shard in _write(name, splits[name], counts[name], spool, bucket)]
    bucket.write(SKIPPED, _csv(skipped))
    manifest = Manifest(source, asdict(options), tuple(written))
    bucket.write(MANIFEST, manifest.to_json())
    return Prepared(manifest, len(skipped), written=True)


@contextlib.contextmanager
def _spool(folder: Path) -> Iterator[BinaryIO]:
    """A nameless file, whose name in an error is that of its folder."""
    spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        yield spool
    finally:
        with naming(folder):
            spool.close()


def split(pictures: Iterable[Picture], options: PrepareOptions) -> dict[str, list[Picture]]:
    """The pictures of each split, shuffled. Each picture's place depends on the seed and its digest, so files that are
    left out have no influence, and each class gives the same part of itself to each split."""
    result: dict[str, list[Picture]] = {name: [] for name in SPLITS}
    ranked = sorted(pictures, key=lambda p: _rank("split", options.seed, p))
    for label, name in enumerate(CLASSES):
        members = [picture for picture in ranked if picture.label == label]
        tests, vals = round(options.test * len(members)), round(options.val * len(members))
        result["test"] += members[:tests]
        result["val"] += members[tests : tests + vals]
        train = sorted(members[tests + vals :], key=lambda p: _rank("keep", options.seed, p))
        result["train"] += train[: round(options.keep.get(name, 1.0) * len(train))]
    return {name: sorted(members, key=lambda p: _rank("shuffle", options.seed, p)) for name, members in result.items()}


def _rank(purpose: str, seed: int, picture: Picture) -> bytes:
    return hashlib.sha256(f"{purpose} {seed} {picture.digest}".encode()).digest()


def _reused(source: str, options: PrepareOptions, bucket: Bucket, reuse: bool) -> Manifest:
    if not reuse:
        raise CallerError(
            f"{bucket.uri}: holds a data set already; name another folder, or write over it with --overwrite"
        )
    manifest = load_manifest(bucket)
    # An option that a data set lacks is of a later version; its default does what was done before.
    before = {"source": manifest.source} | asdict(PrepareOptions()) | manifest.options
    now = {"source": source} | asdict(options)
    different = [f"{name}: {before.get(name)!r} → {now[name]!r}" for name in now if before.get(name) != now[name]]
    if different:
        raise CallerError(
            f"{bucket.uri}: holds a data set made otherwise ({'; '.join(different)}); name another folder, or --overwrite"
        )
    return manifest


def _clear(bucket: Bucket) -> None:
    """Delete the data set that is there or was begun, its manifest first."""
    bucket.delete(MANIFEST)
    bucket.sweep()
    for name in bucket.list():
        if SHARD_NAME.fullmatch(name) or name == SKIPPED:
            bucket.delete(name)


def _convert_all(opened: Opened, side: int, spool: BinaryIO, scratch: Path) -> tuple[list[Picture], list[Skipped]]:
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
                jpeg, height, width = outcome
                digest = hashlib.sha256(jpeg).hexdigest()
                assert item.label is not None
                pictures.append(Picture(item.name, item.label, digest, height, width, spool.tell(), len(jpeg)))
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
        return encode(decode(item.content.read(), side), side)
    except Exception as error:  # a file that cannot be read must not end the work on the others
        return one_line(error)


def _unique(pictures: list[Picture]) -> tuple[list[Picture], list[Skipped]]:
    """Each picture once; none that comes under both classes.

    The name that is least deep, then shortest, then first is kept, for that is rarely the copy's.
    """
    alike: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=lambda p: (p.name.count("/"), len(p.name), p.name)):
        alike.setdefault(picture.digest, []).append(picture)
    kept: list[Picture] = []
    skipped: list[Skipped] = []
    for first, *others in alike.values():
        contrary = next((other for other in others if other.label != first.label), None)
        if contrary is None:
            kept.append(first)
            skipped += [Skipped(other.name, f"the same picture as {first.name}") for other in others]
        else:
            reason = f"the same picture stands under both classes: {first.name} and {contrary.name}"
            skipped += [Skipped(picture.name, reason) for picture in (first, *others)]
    return kept, skipped


def _refuse_missing(source: str, pictures: list[Picture], skipped: list[Skipped]) -> None:
    why = f"; {len(skipped)} files were left out, such as {skipped[0].name!r}: {skipped[0].reason}" if skipped else ""
    if not pictures:
        raise CallerError(f"{source}: holds no usable picture{why}")
    for label, name in enumerate(CLASSES):
        if not any(picture.label == label for picture in pictures):
            raise CallerError(f"{source}: holds no usable picture of class {name!r}{why}")


def _shard_counts(splits: dict[str, list[Picture]], shards: int) -> dict[str, int]:
    """Shards of each split; the smaller ones get as many as keeps shards alike in size."""
    train = len(splits["train"])
    for label, name in enumerate(CLASSES):
        if not any(picture.label == label for picture in splits["train"]):
            raise CallerError(
                f"no picture of class {name!r} is left to train on; lower --val and --test or raise --keep"
            )
    if train < shards:
        raise CallerError(f"--shards {shards}: there are only {train} train examples; give at most that many shards")
    counts = {name: min(len(members), max(1, round(shards * len(members) / train))) for name, members in splits.items()}
    return counts | {"train": shards}


def _write(name: str, pictures: list[Picture], count: int, spool: BinaryIO, bucket: Bucket) -> Iterator[Shard]:
    share, more = divmod(len(pictures), max(count, 1))
    start = 0
    for index in range(count):
        stop = start + share + (index < more)
        members, start = pictures[start:stop], stop
        file = f"{name}-{index:05d}-of-{count:05d}.tfrecord"
        with bucket.writing(file) as path:
            write_records(path, (_example(picture, spool) for picture in members))
        written = bucket.stat(file)
        assert written is not None
        yield Shard(file, name, written.size, written.crc32c, "".join(str(picture.label) for picture in members))


def _example(picture: Picture, spool: BinaryIO) -> bytes:
    spool.seek(picture.offset)
    return encode_example(
        {
            "image/encoded": spool.read(picture.length),
            "image/format": b"jpeg",
            "image/height": picture.height,
            "image/width": picture.width,
            "image/class/label": picture.label,
            "image/class/text": CLASSES[picture.label].encode(),
            "image/filename": picture.name.encode(),
        }
    )


def _csv(skipped: list[Skipped]) -> bytes:
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["path", "reason"])
    rows.writerows((s.name, s.reason) for s in skipped)
    return buffer.getvalue().encode()
