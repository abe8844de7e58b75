"""Everything of a data set read again: each checksum, each record, each picture, and the counts."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from catdog.data.example import decode_example
from catdog.data.images import Unreadable, decode_stored
from catdog.data.process_pool import process_pool
from catdog.data.shards import CLASSES, MANIFEST, SKIPPED, SPLITS, Manifest, Shard, load_manifest
from catdog.data.tfrecord import checked_payload, record_index
from catdog.errors import CallerError
from catdog.storage import Bucket, crc32c

_KEYS = {
    "image/encoded": bytes,
    "image/format": bytes,
    "image/height": int,
    "image/width": int,
    "image/class/label": int,
    "image/class/text": bytes,
    "image/filename": bytes,
}


def verify(bucket: Bucket) -> tuple[Manifest | None, list[str]]:
    """The manifest, or None if it cannot be read, and what is wrong with the data set, one line a fault that names
    shard and record.

    Raises CallerError where there is no data set.
    """
    try:
        manifest = load_manifest(bucket)
    except CallerError as error:
        if not bucket.exists(MANIFEST):
            raise
        return None, [str(error)]
    with process_pool() as pool:
        buckets = [bucket] * len(manifest.shards)
        faults = [fault for found in pool.map(shard_faults, buckets, manifest.shards) for fault in found]
    named = {shard.name for shard in manifest.shards} | {MANIFEST, SKIPPED}
    faults += [f"{name}: the manifest does not name it" for name in bucket.list() if name not in named]
    return manifest, [*_manifest_faults(bucket.read(MANIFEST), manifest), *faults]


def shard_faults(bucket: Bucket, shard: Shard) -> list[str]:
    """What is wrong with one shard."""
    try:
        with bucket.reading(shard.name) as path:
            return _file_faults(path, shard)
    except FileNotFoundError:
        return [f"{shard.name}: is missing"]


def _file_faults(path: Path, shard: Shard) -> list[str]:
    faults: list[str] = []
    if (size := path.stat().st_size) != shard.bytes:
        faults.append(f"{shard.name}: {size} bytes, the manifest says {shard.bytes}")
    if (found := crc32c(path)) != shard.crc32c:
        faults.append(f"{shard.name}: crc32c {found}, the manifest says {shard.crc32c}")
    with open(path, "rb") as file:
        try:
            index = record_index(file)
        except ValueError as error:
            return [*faults, f"{shard.name}: {str(error).removeprefix(f'{path}: ')}"]
        if len(index) != shard.examples:
            faults.append(f"{shard.name}: {len(index)} records, the manifest says {shard.examples}")
        for number, ((offset, length), label) in enumerate(zip(index.tolist(), shard.labels, strict=False)):
            try:
                fault = _example_fault(checked_payload(file, offset, length), int(label))
            except ValueError as error:
                fault = str(error)
            if fault:
                faults.append(f"{shard.name} record {number}: {fault}")
    return faults


def _example_fault(payload: bytes, label: int) -> str | None:
    """What is wrong with the example of one record of the class that the manifest says."""
    try:
        features = decode_example(payload)
    except ValueError as error:
        return f"is no tf.train.Example: {error}"
    for key, kind in _KEYS.items():
        if not isinstance(features.get(key), kind):
            return f"{key} is missing or of the wrong type"
    if features["image/class/label"] != label:
        return f"label {features['image/class/label']!r}, the manifest says {label}"
    if features["image/class/text"] != CLASSES[label].encode():
        return f"class {features['image/class/text']!r} with label {label}"
    encoded = features["image/encoded"]
    assert isinstance(encoded, bytes)
    try:
        image = decode_stored(encoded)
    except Unreadable as error:
        return f"its picture cannot be decoded: {error}"
    found = (image.format, image.mode, image.height, image.width)
    expected = ("JPEG", "RGB", features["image/height"], features["image/width"])
    return None if found == expected else f"its picture is {found}, its features say {expected}"


def _manifest_faults(content: bytes, manifest: Manifest) -> Iterator[str]:
    """Where the manifest contradicts itself: a shard named twice, a split incomplete, counts other than its labels give."""
    found, right = json.loads(content), json.loads(manifest.to_json())
    splits = found.get("splits")
    for name, times in Counter(shard.name for shard in manifest.shards).items():
        if times > 1:
            yield f"{name}: the manifest names it {times} times"
    for split in SPLITS:
        names = {shard.name for shard in manifest.split(split)}
        for index in range(len(names)):
            if (name := f"{split}-{index:05d}-of-{len(names):05d}.tfrecord") not in names:
                yield f"{name}: the manifest does not name it, though it names {len(names)} shards of {split}"
        if not isinstance(splits, dict) or splits.get(split) != right["splits"][split]:
            yield f"{MANIFEST}: split {split}: counts other than its shards' labels give: {right['splits'][split]}"
    for entry, expected in zip(found["shards"], right["shards"], strict=True):
        for key in ("examples", "per_class"):
            if entry.get(key) != expected[key]:
                yield f"{expected['name']}: {key} {entry.get(key)} in the manifest, its labels give {expected[key]}"
