"""The shards of a data set and the manifest that names them."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catdog.errors import CallerError, RunError
from catdog.storage import Bucket, Stat

CLASSES = ("cat", "dog")
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"

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
    if not bucket.exists(MANIFEST):
        root = bucket.local("")
        what = "no such folder" if root and not root.is_dir() else f"holds no data set: there is no {MANIFEST}"
        raise CallerError(f"{bucket.uri}: {what}; write one with `catdog prepare SOURCE {bucket.uri}`")
    try:
        content = json.loads(bucket.read(MANIFEST))
        if content["format"] != 1:
            raise CallerError(f"{bucket.uri}/{MANIFEST}: format {content['format']}; this version reads format 1")
        if tuple(content["classes"]) != CLASSES:
            raise CallerError(f"{bucket.uri}/{MANIFEST}: classes {content['classes']}; must be {list(CLASSES)}")
        return Manifest(content["source"], content["options"], tuple(_shard(entry) for entry in content["shards"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CallerError(f"{bucket.uri}/{MANIFEST}: is not a manifest: {error!r}") from None


def _shard(entry: dict[str, Any]) -> Shard:
    shard = Shard(**{key: entry[key] for key in Shard.__dataclass_fields__})
    named = SHARD_NAME.fullmatch(shard.name)
    if not named or named.group(1) != shard.split:
        raise ValueError(f"no name for a shard of {shard.split!r}: {shard.name!r}")
    if type(shard.bytes) is not int or not re.fullmatch("[0-9a-f]{8}", shard.crc32c):
        raise ValueError(f"{shard.name}: no size and checksum: {shard.bytes!r}, {shard.crc32c!r}")
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
