"""Everything of a data set read again: each checksum, each record, each picture, and the counts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog.data.example import decode_example
from catdog.data.images import Unreadable, decode_stored
from catdog.data.near_duplicates import BITS, difference_hash, near_pairs
from catdog.data.process_pool import process_pool
from catdog.data.shards import (
    BEGUN,
    CLASSES,
    LEASE,
    MANIFEST,
    MANIFEST_BYTES,
    SPLITS,
    Manifest,
    Shard,
    load_manifest,
    shard_name,
)
from catdog.data.tfrecord import checked_payload, record_index
from catdog.errors import CallerError
from catdog.parsing import parse_json
from catdog.storage import Bucket, Changed, crc32c
from catdog.storage.bucket import WRITE_TEST

_KEYS = {
    "image/encoded": bytes,
    "image/format": bytes,
    "image/height": int,
    "image/width": int,
    "image/class/label": int,
    "image/class/text": bytes,
    "image/filename": bytes,
}


@dataclass(frozen=True)
class Hashed:
    """A stored picture: its file name, its split, and what `difference_hash` gives."""

    name: str
    split: str
    hash: bytes


def verify(bucket: Bucket) -> tuple[Manifest | None, list[str], list[str]]:
    """The manifest, or None if it cannot be read; what is wrong with the data set, one line a fault that names shard and
    record; and what is no fault but should be known, one line each.

    Raises CallerError where there is no data set, and Changed when it is written anew meanwhile.
    """
    times, content = bucket.times(MANIFEST), bucket.find(MANIFEST, MANIFEST_BYTES)
    try:
        manifest = load_manifest(bucket)
    except CallerError as error:
        if content is None:
            raise
        return None, [str(error)], []
    with process_pool() as pool:
        buckets = [bucket] * len(manifest.shards)
        read = list(pool.map(read_shard, buckets, manifest.shards))
    faults = [fault for found, _ in read for fault in found]
    named = manifest.files | {LEASE, BEGUN, WRITE_TEST}
    faults += [f"{name}: the manifest does not name it" for name in bucket.list() if name not in named]
    if content is None or bucket.times(MANIFEST) != times:
        raise Changed(f"{bucket.uri}/{MANIFEST}: the data set was written anew while it was read; verify it again")
    warnings = [*manifest.one_sided(), *_leaks([picture for _, pictures in read for picture in pictures])]
    return manifest, [*_manifest_faults(content, manifest), *faults], warnings


def read_shard(bucket: Bucket, shard: Shard) -> tuple[list[str], list[Hashed]]:
    """What is wrong with one shard, and the pictures of its sound records."""
    try:
        with bucket.reading(shard.name) as path:
            return _read_file(path, shard)
    except FileNotFoundError:
        return [f"{shard.name}: is missing"], []


def _leaks(pictures: list[Hashed]) -> list[str]:
    """A line for each pair of near-duplicates of which a model has seen one, or was chosen by it, when it meets the other."""
    pairs = near_pairs([picture.hash for picture in pictures]).tolist()
    return [
        f"near-duplicates in two splits: {a.split} {a.name!r} and {b.split} {b.name!r} differ in {distance} of {BITS} bits"
        for first, second, distance in pairs
        if (a := pictures[first]).split != (b := pictures[second]).split
    ]


def _read_file(path: Path, shard: Shard) -> tuple[list[str], list[Hashed]]:
    faults: list[str] = []
    pictures: list[Hashed] = []
    if (size := path.stat().st_size) != shard.bytes:
        faults.append(f"{shard.name}: {size} bytes, the manifest says {shard.bytes}")
    if (found := crc32c(path)) != shard.crc32c:
        faults.append(f"{shard.name}: crc32c {found}, the manifest says {shard.crc32c}")
    with open(path, "rb") as file:
        try:
            index = record_index(file)
        except ValueError as error:
            return [*faults, f"{shard.name}: {str(error).removeprefix(f'{path}: ')}"], []
        if len(index) != shard.examples:
            faults.append(f"{shard.name}: {len(index)} records, the manifest says {shard.examples}")
        for number, ((offset, length), label) in enumerate(zip(index.tolist(), shard.labels, strict=False)):
            try:
                name, hash_ = _checked_example(checked_payload(file, offset, length), int(label))
                pictures.append(Hashed(name, shard.split, hash_))
            except ValueError as error:
                faults.append(f"{shard.name} record {number}: {error}")
    return faults, pictures


def _checked_example(payload: bytes, label: int) -> tuple[str, bytes]:
    """File name and hash of the picture of one record; raises ValueError with what is wrong with its example, which is to
    be of the class that the manifest says."""
    try:
        features = decode_example(payload)
    except ValueError as error:
        raise ValueError(f"is no tf.train.Example: {error}") from None
    for key, kind in _KEYS.items():
        if not isinstance(features.get(key), kind):
            raise ValueError(f"{key} is missing or of the wrong type")
    if features["image/class/label"] != label:
        raise ValueError(f"label {features['image/class/label']!r}, the manifest says {label}")
    if features["image/class/text"] != CLASSES[label].encode():
        raise ValueError(f"class {features['image/class/text']!r} with label {label}")
    encoded, name = features["image/encoded"], features["image/filename"]
    assert isinstance(encoded, bytes) and isinstance(name, bytes)
    try:
        image = decode_stored(encoded)
    except Unreadable as error:
        raise ValueError(f"its picture cannot be decoded: {error}") from None
    found = (image.format, image.mode, image.height, image.width)
    hash_ = difference_hash(image)
    expected = ("JPEG", "RGB", features["image/height"], features["image/width"])
    if found != expected:
        raise ValueError(f"its picture is {found}, its features say {expected}")
    return name.decode(errors="backslashreplace"), hash_


def _manifest_faults(content: bytes, manifest: Manifest) -> Iterator[str]:
    """Where the manifest contradicts itself: a shard named twice, a split incomplete, counts other than its labels give."""
    found, right = parse_json(content), parse_json(manifest.to_json())
    splits = found.get("splits")
    for name, times in Counter(shard.name for shard in manifest.shards).items():
        if times > 1:
            yield f"{name}: the manifest names it {times} times"
    for split in SPLITS:
        names = {shard.name for shard in manifest.split(split)}
        for index in range(len(names)):
            if (name := shard_name(split, index, len(names))) not in names:
                yield f"{name}: the manifest does not name it, though it names {len(names)} shards of {split}"
        if not isinstance(splits, dict) or splits.get(split) != right["splits"][split]:
            yield f"{MANIFEST}: split {split}: counts other than its shards' labels give: {right['splits'][split]}"
    for entry, expected in zip(found["shards"], right["shards"], strict=True):
        for key in ("examples", "per_class"):
            if entry.get(key) != expected[key]:
                yield f"{expected['name']}: {key} {entry.get(key)} in the manifest, its labels give {expected[key]}"
