"""The shards of a data set and the manifest that names them."""

import hashlib
import json
import re
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from catdog.errors import CallerError, RunError, one_line
from catdog.storage import Bucket, Stat

T = TypeVar("T")

CLASSES = ("cat", "dog")
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
NEAR_DUPLICATES = "near_duplicates.csv"

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")


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
                result.append(
                    f"the {split} split holds {' and '.join(lacking)}: its figures will not tell whether cats are told"
                    f" from dogs; add pictures, or raise --{split}"
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
            "splits": splits,
            "shards": shards,
        }
        return (json.dumps(content, indent=1) + "\n").encode()


def load_manifest(bucket: Bucket) -> Manifest:
    """The manifest of a data set; raises CallerError where there is none or it is not one."""
    found = bucket.find(MANIFEST)
    if found is None:
        bucket.list(MANIFEST)  # tells of a bucket that is not there
        root = bucket.local("")
        what = "no such folder" if root and not root.is_dir() else f"holds no data set: there is no {MANIFEST}"
        raise CallerError(f"{bucket.uri}: {what}; write one with `catdog prepare SOURCE {bucket.uri}`")
    try:
        content = json.loads(found)
        if (version := _entry(content, "format", int)) != 1:
            raise CallerError(f"{bucket.uri}/{MANIFEST}: format {version}; this version reads format 1")
        if (classes := _entry(content, "classes", list)) != list(CLASSES):
            raise CallerError(f"{bucket.uri}/{MANIFEST}: classes {classes}; must be {list(CLASSES)}")
        shards = tuple(_shard(entry, number) for number, entry in enumerate(_entry(content, "shards", list)))
        own = _entry({"own_splits": []} | content, "own_splits", list)
        if not all(split in SPLITS for split in own):
            raise ValueError(f"own_splits {own}: each must be one of {', '.join(SPLITS)}")
        return Manifest(_entry(content, "source", str), _entry(content, "options", dict), shards, tuple(own))
    except (ValueError, RecursionError) as error:
        raise CallerError(f"{bucket.uri}/{MANIFEST}: is not a manifest: {one_line(error)}") from None


def _shard(content: Any, number: int) -> Shard:
    kinds = typing.get_type_hints(Shard)
    shard = Shard(**{name: _entry(content, name, kind, f"shards.{number}.") for name, kind in kinds.items()})
    named = SHARD_NAME.fullmatch(shard.name)
    if not named or named.group(1) != shard.split:
        raise ValueError(f"no name for a shard of {shard.split!r}: {shard.name!r}")
    if not re.fullmatch("[0-9a-f]{8}", shard.crc32c):
        raise ValueError(f"{shard.name}: no checksum: {shard.crc32c!r}")
    if not re.fullmatch(f"[0-{len(CLASSES) - 1}]*", shard.labels):
        raise ValueError(f"{shard.name}: a label that is no class")
    return shard


def _entry(table: Any, name: str, kind: type[T], where: str = "") -> T:
    """What an object read from JSON has under a name; raises ValueError unless that is of the type."""
    if not isinstance(table, dict) or type(table.get(name)) is not kind:
        raise ValueError(f"{where}{name} is missing or of the wrong type")
    return typing.cast(T, table[name])


def pinned(bucket: Bucket, shards: Sequence[Shard]) -> dict[str, Stat]:
    """Each shard's size and checksum, as the manifest tells them, with its present generation, by name.

    Raises RunError that names a shard which the store does not have as the manifest tells.
    """
    found = bucket.stats([shard.name for shard in shards])
    for shard in shards:
        there = found.get(shard.name)
        if there is None or there.crc32c not in (shard.crc32c, ""):
            raise RunError(
                f"{bucket.uri}/{shard.name}: crc32c {shard.crc32c} expected, {there.crc32c if there else 'nothing'} found;"
                f" `catdog verify {bucket.uri}` tells more"
            )
    return {shard.name: Stat(shard.bytes, shard.crc32c, found[shard.name].generation) for shard in shards}
