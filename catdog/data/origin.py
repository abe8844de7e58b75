"""What a source on a disk looked like when a data set was made of it, to be compared with what it is now."""

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from catdog.data.shards import Manifest
from catdog.data.sources import File, open_source


@dataclass(frozen=True)
class Origin:
    """A source that looks the same is taken for unchanged: no picture is opened for it."""

    place: str
    """Its path from the root, links followed."""
    pictures: int
    """Files that tell a class."""
    newest: str
    """When the newest of them was changed, or their zip file, in UTC; empty where there is none."""
    listing: str
    """SHA-256, in hexadecimal, of their names, with the size and the time of change of each file or of their zip file."""


def resolved(source: str) -> str:
    """The source as it reads from any folder, links followed."""
    kind, _, path = source.partition(":")
    return f"folder:{os.path.realpath(os.path.expanduser(path))}" if kind == "folder" else source


def look_at(source: str) -> Origin | None:
    """What a source looks like now; None for one that lies on no disk. Raises CallerError where there is nothing to read."""
    if not source.startswith("folder:"):
        return None
    items = [item for item in open_source(source, 0).items if item.label is not None]
    place = Path(resolved(source).removeprefix("folder:"))
    files = {item.name: item.content.path for item in items if isinstance(item.content, File)}
    if place.is_file():
        files[""] = place
    states = {name: state for name, path in files.items() if (state := _state(path)) is not None}
    listing = hashlib.sha256()
    for name in sorted({item.name for item in items} | files.keys()):
        size_and_time = (states[name].st_size, states[name].st_mtime_ns) if name in states else ()
        listing.update(repr((name, *size_and_time)).encode())
    newest = max((state.st_mtime for state in states.values()), default=None)
    return Origin(str(place), len(items), "" if newest is None else _date(newest), listing.hexdigest())


def _date(seconds: float) -> str:
    """A time in UTC; as the number that it is, where no calendar has it."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat(" ").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"


def _state(path: Path) -> os.stat_result | None:
    """What is known of a file without its bytes; None for one that has gone since it was listed."""
    try:
        return path.stat()
    except OSError:
        return None


def source_changes(manifest: Manifest, source: str) -> list[str]:
    """What a data set was made of and what it would be made of now, where that differs, as far as the manifest tells."""
    origin = manifest.origin
    before, now = f"folder:{origin['place']}" if origin else resolved(manifest.source), resolved(source)
    if before != now:
        return [f"source: {before} → {now}"]
    # A source that is gone since can't be looked at; its data set is still the one that is asked for.
    if not origin or not os.path.exists(origin["place"]) or (found := look_at(source)) is None:
        return []
    told = (("pictures", "pictures", found.pictures), ("newest change", "newest", found.newest))
    different = [f"{words}: {origin.get(name)} → {new}" for words, name, new in told if origin.get(name) != new]
    if not different and origin.get("listing") != found.listing:
        different.append("names, sizes or times of its pictures")
    return [f"{source} has changed since, {each}" for each in different]
