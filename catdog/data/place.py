"""The place that a data set is written to: which files there are catdog's own, and may be deleted or replaced."""

import json
import os
from collections.abc import Iterable

from catdog.data.shards import (
    BEGUN,
    LEASE,
    LISTS,
    MANIFEST,
    MANIFEST_BYTES,
    SHARD_NAME,
    Manifest,
    load_manifest,
    shard_names,
)
from catdog.errors import CallerError
from catdog.parsing import parse_json
from catdog.storage import Bucket, TooLarge
from catdog.storage.lease import TRAINING, Work, is_lease

PREPARING = Work(LEASE, False, "data set", "prepare", "prepared", "wait until it is done, or name another folder")


def data_set(bucket: Bucket) -> Manifest | None:
    """The data set that is there; raises CallerError for a manifest that catdog has not written."""
    if MANIFEST not in bucket.list(MANIFEST):  # a list tells of a bucket that is not there
        return None
    try:
        return load_manifest(bucket)
    except CallerError as error:
        raise CallerError(f"{error}; name another folder, or move that file if it is of no use") from None


def own_files(bucket: Bucket, there: Manifest | None) -> set[str]:
    """The files of the data set that is there, and of one whose writing was broken off."""
    named = there.files if there is not None else set()
    try:
        begun = parse_json(bucket.find(BEGUN, MANIFEST_BYTES) or b"[]")
        return named | {name for name in begun if SHARD_NAME.fullmatch(name) or name in (MANIFEST, *LISTS)}
    except (ValueError, TypeError, TooLarge):
        return named


def refuse_others(bucket: Bucket, ours: set[str], shards: int) -> None:
    """Raise CallerError where files lie that would be written over, as far as that is known before all pictures are, and
    in a place that holds nothing of ours for any that would pass for the data set's. What is no file is refused under
    each name that a data set's file may have; so is a run's place, for a run goes on in no data set's."""
    if _leased(bucket, TRAINING.lease) and bucket.exists("recipe.toml"):
        raise CallerError(f"{bucket.uri}: holds a run: name another folder for the data set")
    likely = {*LISTS, *shard_names({"train": shards})}
    root = bucket.local("")
    beside = os.listdir(root) if root is not None and root.is_dir() else []
    bucket.require_free([MANIFEST, BEGUN, LEASE, *LISTS, *filter(SHARD_NAME.fullmatch, sorted(beside))])
    if _leased(bucket, LEASE) is False:
        _refuse(bucket, [LEASE], set())
    _refuse(
        bucket, (name for name in bucket.list() if name in likely or (not ours and SHARD_NAME.fullmatch(name))), ours
    )


def _leased(bucket: Bucket, name: str) -> bool | None:
    """Whether what has a lease's name is one; None where nothing has."""
    try:
        found = bucket.find(name, MANIFEST_BYTES)
    except TooLarge:
        return False
    return None if found is None else is_lease(found)


def _refuse(bucket: Bucket, there: Iterable[str], ours: set[str]) -> None:
    if others := sorted(set(there) - ours):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise CallerError(
            f"{bucket.uri}: holds {others[0]}{more}, which no {MANIFEST} of catdog's names;"
            " name another folder, or move what is of use and delete the rest"
        )


def clear(bucket: Bucket, ours: set[str], wanted: set[str]) -> None:
    """Delete the data set that is there or was begun, its manifest first, and note what is written in its place.

    Raises CallerError, and deletes nothing, where what is to be written is there and not ours.
    """
    _refuse(bucket, wanted.intersection(bucket.list()), ours)
    bucket.require_free(sorted(wanted))
    bucket.write(BEGUN, json.dumps(sorted(ours | wanted)).encode())
    bucket.sweep((ours | wanted | {BEGUN}).__contains__)
    for name in sorted(ours, key=lambda name: name != MANIFEST):
        bucket.delete(name)
