"""The least limit of the cache: it suffices for a run, and a lower one is refused."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_stores import FakeBucket, assert_read, make_shards, watched

from catdog.data.cache import open_cache, require_limit, required_bytes
from catdog.data.order import Order, Share, evaluation_needs, evaluation_rows
from catdog.errors import CallerError
from catdog.recipe import Cache


def test_a_limit_below_what_is_read_at_once_is_refused_with_the_number_that_would_do():
    streams = [make_shards(3, sizes=[100, 300, 200]), make_shards(2, sizes=[10, 20])]
    val = make_shards(3, sizes=[5, 7, 6], split="val")
    assert required_bytes(streams, 4, val, 8) == (300 + 200) + (20 + 10) + (7 + 6)
    assert required_bytes(streams, 1, val, 1) == 300 + 20 + 7
    assert required_bytes(streams, 12, val, 64) == (300 + 200 + 100) + (20 + 10) + (7 + 6 + 5)
    assert required_bytes(streams, None, [], 64) == 630
    assert required_bytes([], 4, val, 8) == 13
    require_limit(Cache(max_bytes=543), 543)
    with pytest.raises(CallerError, match=r"^cache\.max_bytes = 542: .* at least 543$"):
        require_limit(Cache(max_bytes=542), 543)


@st.composite
def orders(draw) -> Order:
    streams, examples = draw(st.integers(1, 3)), draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    sizes = tuple(size for size in examples for _ in range(streams))
    rows = draw(st.integers(1, sum(examples)))
    labels = tuple("010"[:size] + "0" * (size - 3) for size in sizes) if draw(st.booleans()) else None
    return Order(sizes, streams, rows * streams, draw(st.integers(0, 99)), labels)


@settings(deadline=None, max_examples=60)
@given(order=orders(), data=st.data())
def test_exactly_what_is_asked_for_suffices_for_training_and_validation(order, data):
    count, workers = len(order.sizes), data.draw(st.integers(1, order.streams))
    share = Share(data.draw(st.integers(0, workers - 1)), workers)
    train = make_shards(count, data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count)), order.sizes)
    val_sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    val = make_shards(len(val_sizes), [3 * size for size in val_sizes], val_sizes, split="val")
    batch = data.draw(st.integers(1, 12))
    own = range(share.worker, order.streams, share.workers)
    limit = required_bytes(
        [train[stream :: order.streams] for stream in own],
        order.global_batch // order.streams if order.labels is None else None,
        val[share.worker :: share.workers],
        batch,
    )
    starts, stop = np.cumsum([0, *order.sizes]), 2 * order.steps_per_epoch
    table, val_starts = evaluation_rows(val_sizes, batch, share), np.cumsum([0, *val_sizes])
    bucket = FakeBucket(train, val)
    with (
        tempfile.TemporaryDirectory() as place,
        open_cache(bucket, bucket.pins, Cache(place, limit, ahead=2, fetchers=2)) as cache,
        watched(Path(place), limit),
        cache.follow(train, order.needs(share, 0, stop)) as files,
    ):
        for step, made in enumerate(order.batches(0, stop)):
            files.reach(step)
            examples = made.example.reshape(-1, order.streams)[:, share.worker :: share.workers].T.reshape(-1)
            assert_read(files, train, *(np.searchsorted(starts, examples, side="right") - 1).tolist())
            if (step + 1) % order.steps_per_epoch == 0:
                with cache.follow(val, evaluation_needs(val_sizes, batch, share)) as val_files:
                    for val_step, rows in enumerate(table.reshape(len(table), -1)):
                        val_files.reach(val_step)
                        found = np.searchsorted(val_starts, rows[rows >= 0], side="right") - 1
                        assert_read(val_files, val, *found.tolist())
