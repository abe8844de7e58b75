"""A source → a data set: decoded, deduplicated, split, shuffled, sharded, and only then given its manifest."""

import contextlib
import hashlib
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from catdog.data.csv_table import csv_table
from catdog.data.example import encode_example
from catdog.data.images import decode, encode
from catdog.data.near_duplicates import difference_hash, groups, near_pairs
from catdog.data.options import PrepareOptions
from catdog.data.origin import look_at, source_changes
from catdog.data.place import PREPARING, clear, data_set, own_files, refuse_others
from catdog.data.process_pool import cores, process_pool
from catdog.data.shards import (
    BEGUN,
    CLASSES,
    LISTS,
    MANIFEST,
    NEAR_DUPLICATES,
    SKIPPED,
    SPLITS,
    Manifest,
    Shard,
    shard_name,
    shard_names,
)
from catdog.data.sources import NESTED, Item, Opened, open_source, require_source
from catdog.data.split import Picture, own_splits, split, split_of
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError, naming, one_line, tell
from catdog.storage import Bucket
from catdog.storage.lease import hold, wait_until_free

_TOGETHER = 16
"""Pictures that a process is given at once."""

Stored = tuple[bytes, int, int, bytes]
"""JPEG bytes, height and width, and the picture's hash."""

_KEPT_FIRST = ("test", "val", "train", "")
"""Of copies in several splits of the source's own, the one that is held out stays, or training would know it."""


@dataclass(frozen=True)
class Skipped:
    name: str
    reason: str


@dataclass(frozen=True)
class NearDuplicates:
    """Two pictures that are kept though they show the same, and what each stands under."""

    names: tuple[str, str]
    distance: int
    """Bits, of 256, in which their hashes differ."""
    splits: tuple[str, str]
    labels: tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    manifest: Manifest
    skipped: int
    written: bool
    """Whether anything was done; not when the data set was there already and was to be reused."""
    near_duplicates: Sequence[NearDuplicates] = ()


def prepare(
    source: str,
    bucket: Bucket,
    options: PrepareOptions = PrepareOptions(),  # noqa: B008
    *,
    overwrite: bool = False,
    reuse: bool = False,
) -> Prepared:
    """Write a data set, its manifest last; the same pictures and options give the same shards, byte for byte.

    With `overwrite` the data set that is there is replaced; with `reuse` one of the same source and options is left as
    it is. Raises CallerError for anything that the caller can mend, files that another program has left in the place
    of the data set's own among it, and HeldError while another process prepares there.
    """
    require_source(source)
    wait_until_free(bucket, _say, PREPARING)
    there = data_set(bucket)
    if there is not None and not overwrite:
        return Prepared(_reused(there, source, options, bucket, reuse), 0, written=False)
    origin = look_at(source)
    refuse_others(bucket, own_files(bucket, there), options.shards)
    bucket.require_writable()  # not only when all pictures are converted
    with hold(bucket, _say, PREPARING) as lease:
        there = data_set(bucket)
        if there is not None and not overwrite:  # it was finished just now
            return Prepared(_reused(there, source, options, bucket, reuse), 0, written=False)
        ours = own_files(bucket, there)
        opened = open_source(source, options.seed)
        # The converted pictures lie in a nameless file until all are known: beside the shards, where there is room.
        scratch = bucket.scratch()
        with _spool(scratch) as spool:
            pictures, unusable = _convert_all(opened, options.side, spool, scratch)
            own = own_splits(pictures)
            pictures, astray = _placed(pictures, own)
            pictures, repeated = _unique(pictures)
            skipped = sorted([*unusable, *astray, *repeated], key=lambda s: (s.name, s.reason))
            _refuse_missing(source, pictures, skipped)
            pairs = near_pairs([picture.hash for picture in pictures])
            splits = split(pictures, options, own, groups(len(pictures), pairs).tolist())
            counts = _shard_counts(splits, options.shards)
            lease.require()
            clear(bucket, ours, {MANIFEST, *LISTS, *shard_names(counts)})
            written = []
            for name in SPLITS:
                for shard in _write(name, splits[name], counts[name], spool, bucket):
                    written.append(shard)
                    lease.require()
        near_duplicates = _near_duplicates(pictures, pairs.tolist(), splits)
        bucket.write(SKIPPED, csv_table(["path", "reason"], ((s.name, s.reason) for s in skipped)))
        listed = ((*near.names, near.distance) for near in near_duplicates)
        bucket.write(NEAR_DUPLICATES, csv_table(["path", "other path", "distance"], listed))
        manifest = Manifest(source, asdict(options), tuple(written), own, None if origin is None else asdict(origin))
        lease.require()
        bucket.write(MANIFEST, manifest.to_json())
        bucket.delete(BEGUN)
    return Prepared(manifest, len(skipped), written=True, near_duplicates=near_duplicates)


@contextlib.contextmanager
def _spool(folder: Path) -> Iterator[BinaryIO]:
    """A nameless file, whose name in an error is that of its folder."""
    spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        yield spool
    finally:
        with naming(folder):
            spool.close()


def _say(text: str) -> None:
    tell(text, file=sys.stderr)


def _reused(there: Manifest, source: str, options: PrepareOptions, bucket: Bucket, reuse: bool) -> Manifest:
    if not reuse:
        raise CallerError(
            f"{bucket.uri}: holds a data set already; name another folder, or write over it with --overwrite"
        )
    # An option that a data set lacks is of a later version; its default does what was done before.
    before, now = asdict(PrepareOptions()) | there.options, asdict(options)
    options_changed = [f"{name}: {before.get(name)!r} → {now[name]!r}" for name in now if before.get(name) != now[name]]
    if different := source_changes(there, source) + options_changed:
        raise CallerError(
            f"{bucket.uri}: holds a data set made otherwise ({'; '.join(different)}); name another folder, or --overwrite"
        )
    return there


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
                jpeg, height, width, hash_ = outcome
                digest = hashlib.sha256(jpeg).hexdigest()
                assert item.label is not None
                place, folder = (spool.tell(), len(jpeg)), split_of(item.name)
                pictures.append(Picture(item.name, item.label, digest, height, width, *place, folder, hash_))
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
        return one_line(error)


def _placed(pictures: list[Picture], own: Sequence[str]) -> tuple[list[Picture], list[Skipped]]:
    """The pictures with the folders that are splits of the source's own; where train is one, those alone that lie in one.

    What stands beside `train` and `test` may be someone's hold-out under another name.
    """
    kept = [picture if picture.folder in own else replace(picture, folder="") for picture in pictures]
    if "train" not in own:
        return kept, []
    reason = f"lies in none of the folders of the source's own split: {', '.join(own)}"
    astray = [Skipped(picture.name, reason) for picture in kept if not picture.folder]
    return [picture for picture in kept if picture.folder], astray


def _unique(pictures: list[Picture]) -> tuple[list[Picture], list[Skipped]]:
    """Each picture once; none that comes under both classes.

    The name that is least deep, then shortest, then first is kept, for that is rarely the copy's.
    """

    def preference(picture: Picture) -> tuple[int, int, int, str]:
        name = picture.name
        return _KEPT_FIRST.index(picture.folder), name.count("/"), len(name), name

    alike: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=preference):
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
    telling = next((s for s in skipped if s.reason.startswith(NESTED)), skipped[0] if skipped else None)
    why = f"; {len(skipped)} files were left out, such as {telling.name!r}: {telling.reason}" if telling else ""
    if not pictures:
        raise CallerError(f"{source}: holds no usable picture{why}")
    for label, name in enumerate(CLASSES):
        if not any(picture.label == label for picture in pictures):
            raise CallerError(f"{source}: holds no usable picture of class {name!r}{why}")
        if not any(picture.label == label and picture.folder not in ("val", "test") for picture in pictures):
            raise CallerError(
                f"{source}: all of class {name!r} lies in folders named val or test; train needs some{why}"
            )


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
        file = shard_name(name, index, count)
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


def _near_duplicates(
    pictures: Sequence[Picture], pairs: Iterable[tuple[int, int, int]], splits: dict[str, list[Picture]]
) -> list[NearDuplicates]:
    """What is told of each pair of places and its distance; not of a picture that was thinned out."""
    places = {picture.name: name for name, members in splits.items() for picture in members}
    found = []
    for first, second, distance in pairs:
        a, b = sorted((pictures[first], pictures[second]), key=lambda p: p.name)
        if a.name in places and b.name in places:
            between = places[a.name], places[b.name]
            found.append(NearDuplicates((a.name, b.name), distance, between, (a.label, b.label)))
    return sorted(found, key=lambda near: (near.distance, near.names))
