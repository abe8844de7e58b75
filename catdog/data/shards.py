"""The shards of a data set and the manifest that names them."""

import hashlib
import json
import re
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catdog.errors import CallerError, RunError
from catdog.parsing import brief, entry, parse_json
from catdog.storage import Bucket, Stat

CLASSES = ("cat", "dog")
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
MANIFEST_BYTES = 1 << 26
"""The most that a manifest may have; most of them are labels, one for each example."""

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-[0-9]{{5}}-of-[0-9]{{5}}\.tfrecord")


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

    def split(self, name: str) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == name)

    def per_class(self, split: str) -> dict[str, int]:
        total = Counter(dict.fromkeys(CLASSES, 0))
        for shard in self.split(split):
            total.update(shard.per_class)
        return dict(total)

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
            "splits": splits,
            "shards": shards,
        }
        return (json.dumps(content, indent=1) + "\n").encode()


def load_manifest(bucket: Bucket) -> Manifest:
    """The manifest of a data set; raises CallerError where there is none or it is not one."""
    found = bucket.find(MANIFEST, MANIFEST_BYTES)
    if found is None:
        bucket.list(MANIFEST)  # tells of a bucket that is not there
        root = bucket.local("")
        what = "no such folder" if root and not root.is_dir() else f"holds no data set: there is no {MANIFEST}"
        raise CallerError(f"{bucket.uri}: {what}; write one with `catdog prepare SOURCE {bucket.uri}`")
    try:
        content = parse_json(found)
        if (version := entry(content, "format", int)) != 1:
            raise CallerError(f"{bucket.uri}/{MANIFEST}: format {version}; this version reads format 1")
        if (classes := entry(content, "classes", list)) != list(CLASSES):
            raise CallerError(f"{bucket.uri}/{MANIFEST}: classes {brief(classes)}; must be {list(CLASSES)}")
        shards = tuple(_shard(shard, number) for number, shard in enumerate(entry(content, "shards", list)))
        return Manifest(entry(content, "source", str), entry(content, "options", dict), shards)
    except ValueError as error:
        raise CallerError(f"{bucket.uri}/{MANIFEST}: is not a manifest: {error}") from None


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
