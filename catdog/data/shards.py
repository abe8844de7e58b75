"""The shards of a data set and the manifest that names them."""

import hashlib
import json
import os
import re
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from catdog.errors import CallerError, FinalError
from catdog.parsing import brief, entry, parse_json
from catdog.storage import Bucket, Stat

CLASSES = ("cat", "dog")
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
NEAR_DUPLICATES = "near_duplicates.csv"
LISTS = (SKIPPED, NEAR_DUPLICATES)
"""What `prepare` writes beside shards and manifest."""
LEASE = ".catdog-lease.json"
"""Tells which process is writing the data set."""
BEGUN = ".catdog-begun.json"
"""Names the files of a data set that is being written, or whose writing was broken off."""
MANIFEST_BYTES = 1 << 26
"""The most that a manifest may have; most of them are labels, one for each example."""

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-[0-9]{{5}}-of-[0-9]{{5}}\.tfrecord")


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def shard_names(counts: Mapping[str, int]) -> list[str]:
    """The names of so many shards of each split."""
    return [shard_name(split, index, count) for split, count in counts.items() for index in range(count)]


@dataclass(frozen=True)
class Shard:
    """One TFRecord file of a data set."""

    name: str
    split: str
    bytes: int
    crc32c: str
    """CRC-32C of the file, 8 hexadecimal digits."""
    labels: str
    """One digit a record: its class."""

    @property
    def examples(self) -> int:
        return len(self.labels)

    @property
    def per_class(self) -> dict[str, int]:
        return {name: self.labels.count(str(label)) for label, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Manifest:
    """What a data set holds; the object that, written last, makes it one."""

    source: str
    options: dict[str, Any]
    shards: tuple[Shard, ...]
    own_splits: tuple[str, ...] = ()
    """The splits that the source's own folders tell."""
    origin: dict[str, Any] | None = None
    """What the source looked like, if it lies on a disk, as `origin.Origin` tells it; an earlier version's lacks it."""
    lists: tuple[str, ...] = LISTS
    """Which files lie beside the shards to tell what was left out or is there twice."""

    @property
    def files(self) -> set[str]:
        """Names of all files of the data set."""
        return {MANIFEST, *self.lists, *(shard.name for shard in self.shards)}

    def split(self, name: str) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == name)

    def per_class(self, split: str) -> dict[str, int]:
        total = Counter(dict.fromkeys(CLASSES, 0))
        for shard in self.split(split):
            total.update(shard.per_class)
        return dict(total)

    def one_sided(self) -> list[str]:
        """A line for each of val and test that lacks a class, though it is not empty or was to hold a part of each."""
        result = []
        for split in ("val", "test"):
            lacking = [f"no {name}" for name, count in self.per_class(split).items() if count == 0]
            if lacking and (self.split(split) or self.options.get(split) != 0):
                instead = " to its folder" if split in self.own_splits else f", or raise --{split}"
                result.append(
                    f"the {split} split holds {' and '.join(lacking)}: its figures will not tell whether cats are told"
                    f" from dogs; add pictures{instead}"
                )
        return result

    @property
    def digest(self) -> str:
        """SHA-256 of what the data set holds, in hexadecimal; where it came from is no part of it."""
        held = [[s.name, s.split, s.bytes, s.crc32c, s.labels] for s in self.shards]
        return hashlib.sha256(json.dumps([CLASSES, held]).encode()).hexdigest()

    def to_json(self) -> bytes:
        splits = {
            split: {"examples": sum(s.examples for s in self.split(split)), "per_class": self.per_class(split)}
            for split in SPLITS
        }
        shards = [
            {
                "name": s.name,
                "split": s.split,
                "bytes": s.bytes,
                "crc32c": s.crc32c,
                "examples": s.examples,
                "per_class": s.per_class,
                "labels": s.labels,
            }
            for s in self.shards
        ]
        content = {
            "format": 1,
            "classes": CLASSES,
            "source": self.source,
            "options": self.options,
            **({"own_splits": self.own_splits} if self.own_splits else {}),
            **({"origin": self.origin} if self.origin is not None else {}),
            "lists": self.lists,
            "splits": splits,
            "shards": shards,
        }
        return (json.dumps(content, indent=1) + "\n").encode()


def _why_none(bucket: Bucket) -> str:
    """What there is in place of a data set, and what to do about it."""
    there, root = f"holds no data set: there is no {MANIFEST}", bucket.local("")
    if root is not None and not root.exists():
        there = "no such folder"
    elif root is not None and not root.is_dir():
        return "is a file, where the folder of a data set must be"
    elif root is not None and any((root / folder).is_dir() for name in CLASSES for folder in (name, f"{name}s")):
        return f"holds no data set, but pictures: make one of them elsewhere with `catdog prepare folder:{bucket.uri} DATA_URI`"
    return f"{there}; write one with `catdog prepare SOURCE {bucket.uri}`"


def load_manifest(bucket: Bucket) -> Manifest:
    """The manifest of a data set; raises CallerError where there is none or it is not one."""
    found = bucket.find(MANIFEST, MANIFEST_BYTES)
    if found is None:
        bucket.list(MANIFEST)  # tells of a bucket that is not there
        raise CallerError(f"{bucket.uri}: {_why_none(bucket)}")
    try:
        content = parse_json(found)
        if (version := entry(content, "format", int)) != 1:
            raise CallerError(f"{bucket.uri}/{MANIFEST}: format {version}; this version reads format 1")
        if (classes := entry(content, "classes", list)) != list(CLASSES):
            raise CallerError(f"{bucket.uri}/{MANIFEST}: classes {brief(classes)}; must be {list(CLASSES)}")
        shards = tuple(_shard(shard, number) for number, shard in enumerate(entry(content, "shards", list)))
        own = entry({"own_splits": []} | content, "own_splits", list[str])
        if not all(split in SPLITS for split in own):
            raise ValueError(f"own_splits {brief(own)}: each must be one of {', '.join(SPLITS)}")
        _require_path(source := entry(content, "source", str), "source")
        if (origin := content.get("origin")) is not None:
            _require_path(entry(origin, "place", str, "origin."), "origin.place")
        lists = entry({"lists": [SKIPPED]} | content, "lists", list[str])  # of catdog 0.2.0 and earlier
        if not all(name in LISTS for name in lists):
            raise ValueError(f"lists {brief(lists)}: each must be one of {', '.join(LISTS)}")
        options = entry(content, "options", dict)
        return Manifest(source, options, shards, tuple(own), origin, tuple(lists))
    except ValueError as error:
        raise CallerError(f"{bucket.uri}/{MANIFEST}: is not a manifest: {error}") from None


def _require_path(text: str, where: str) -> None:
    """Raise ValueError for what the system takes for no path; bytes that are no UTF-8 may be in one."""
    try:
        if b"\0" not in os.fsencode(text):
            return
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{where} {brief(text)}: is no path")


def _shard(content: Any, number: int) -> Shard:
    kinds = typing.get_type_hints(Shard)
    shard = Shard(**{name: entry(content, name, kind, f"shards.{number}.") for name, kind in kinds.items()})
    named = SHARD_NAME.fullmatch(shard.name)
    if not named or named.group(1) != shard.split:
        raise ValueError(f"no name for a shard of {brief(shard.split)}: {brief(shard.name)}")
    if shard.bytes < 0:
        raise ValueError(f"{shard.name}: bytes {shard.bytes}: must be at least 0")
    if not re.fullmatch("[0-9a-f]{8}", shard.crc32c):
        raise ValueError(f"{shard.name}: no checksum: {brief(shard.crc32c)}")
    if not re.fullmatch(f"[0-{len(CLASSES) - 1}]*", shard.labels):
        raise ValueError(f"{shard.name}: a label that is no class")
    return shard


def pinned(bucket: Bucket, shards: Sequence[Shard]) -> dict[str, Stat]:
    """Each shard's size and checksum, as the manifest tells them, with its present generation or times, by name.

    Raises FinalError that names a shard which the store does not have as the manifest tells.
    """
    found = bucket.stats([shard.name for shard in shards])
    for shard in shards:
        there = found.get(shard.name)
        if there is None or there.crc32c not in (shard.crc32c, ""):
            raise FinalError(
                f"{bucket.uri}/{shard.name}: crc32c {shard.crc32c} expected, {there.crc32c if there else 'nothing'} found;"
                f" `catdog verify {bucket.uri}` tells more"
            )
    return {shard.name: replace(found[shard.name], size=shard.bytes, crc32c=shard.crc32c) for shard in shards}
