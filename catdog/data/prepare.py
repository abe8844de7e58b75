"""A source → a data set: decoded, deduplicated, split, shuffled, sharded, and only then given its manifest."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from catdog.data.convert import convert, spool_file
from catdog.data.csv_table import csv_table
from catdog.data.duplicates import NearDuplicates, near_duplicates, unique
from catdog.data.example import encode_example
from catdog.data.near_duplicates import groups, near_pairs
from catdog.data.options import PrepareOptions
from catdog.data.origin import look_at, source_changes
from catdog.data.picture import Picture, Skipped
from catdog.data.place import PREPARING, clear, data_set, own_files, refuse_others
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
from catdog.data.sources import NESTED, holds, open_source, require_source
from catdog.data.split import placed, split
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError, tell
from catdog.storage import Bucket
from catdog.storage.lease import hold, wait_until_free

_EXAMPLES = 10
"""Zip files that are named, at most, where there are no pictures but in these."""


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
    if (root := bucket.local("")) is not None and holds(source, root):
        raise CallerError(
            f"{bucket.uri}: lies in {source}, all of whose files are taken for pictures: name a folder outside of it"
        )
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
        with spool_file(scratch) as spool:
            pictures, unusable = convert(opened, options.side, spool, scratch)
            pictures, own, astray = placed(pictures)
            pictures, repeated = unique(pictures)
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
        near = near_duplicates(pictures, pairs.tolist(), splits)
        bucket.write(SKIPPED, csv_table(["path", "reason"], ((s.name, s.reason) for s in skipped)))
        listed = ((*pair.names, pair.distance) for pair in near)
        bucket.write(NEAR_DUPLICATES, csv_table(["path", "other path", "distance"], listed))
        manifest = Manifest(source, asdict(options), tuple(written), own, None if origin is None else asdict(origin))
        lease.require()
        bucket.write(MANIFEST, manifest.to_json())
        bucket.delete(BEGUN)
    return Prepared(manifest, len(skipped), written=True, near_duplicates=near)


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


def _refuse_missing(source: str, pictures: list[Picture], skipped: list[Skipped]) -> None:
    nested = [s for s in skipped if s.reason.startswith(NESTED)]
    nested = [s for s in nested if "train" in PurePosixPath(s.name).stem.lower()] or nested
    examples = [f"{s.name!r}: {s.reason}" for s in nested[:_EXAMPLES] or skipped[:1]]
    why = f"; {len(skipped)} files were left out, such as {'; '.join(examples)}" if examples else ""
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
