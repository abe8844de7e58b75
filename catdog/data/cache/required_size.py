"""The least that `cache.max_bytes` may be for a run."""

from collections.abc import Iterable, Sequence

import numpy as np

from catdog.data.shards import Shard
from catdog.errors import CallerError
from catdog.recipe import Cache


def required_bytes(
    streams: Iterable[Sequence[Shard]], rows: int | None, others: Sequence[Shard], other_rows: int
) -> int:
    """Bytes that must be held at once by a worker that trains on some streams and evaluates on other shards.

    A step reads `rows` records in a row of each stream, whose shards come in any order, or, for None, records from
    anywhere in it; and evaluation `other_rows` in a row of the others.
    """
    return sum(_most_at_once(shards, rows) for shards in streams) + _most_at_once(others, other_rows)


def require_limit(settings: Cache, needed: int) -> None:
    """Raise CallerError when the limit is below the bytes that must be held at once."""
    if settings.max_bytes < needed:
        raise CallerError(
            f"cache.max_bytes = {settings.max_bytes}: too small for the shards that are read at once;"
            f" must be at least {needed}"
        )


def _most_at_once(shards: Sequence[Shard], rows: int | None) -> int:
    sizes = sorted((shard.bytes for shard in shards if shard.examples), reverse=True)
    if rows is None or not sizes:
        return sum(sizes)
    # Records in a row lie in one shard, or in the end of one, the whole of some and the start of one.
    whole = np.cumsum(sorted(shard.examples for shard in shards if shard.examples))
    return sum(sizes[: 1 if rows < 2 else 2 + int(np.searchsorted(whole, rows - 2, side="right"))])
