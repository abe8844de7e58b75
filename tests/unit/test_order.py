"""The order's promises, held by property tests over shards, streams, batches, workers, replicas and seeds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.data.order import Order, Share, evaluation_needs, evaluation_rows, permutation, replica_rows
from catdog.errors import CallerError

properties = settings(max_examples=60, deadline=None)


@st.composite
def orders(draw, labelled=False):
    """Orders on shards that differ by at most one record, as `prepare` writes them."""
    streams, per_stream, per_batch = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    shards, batch = streams * per_stream, streams * per_batch
    total = draw(st.integers(max(batch, 2 * shards), max(batch, 2 * shards) + 150))
    sizes = tuple(total // shards + (i < total % shards) for i in range(shards))
    seed = draw(st.integers(0, 2**31 - 1))
    if not labelled:
        return Order(sizes, streams, batch, seed)
    rare = draw(st.integers(2, 6))
    labels = tuple("".join("10"[(i + shard) % rare == 0] for i in range(size)) for shard, size in enumerate(sizes))
    try:
        return Order(sizes, streams, batch, seed, labels)
    except CallerError:  # a stream without one of the classes, or too few examples of them for a batch
        return Order(sizes, streams, batch, seed, tuple("01" * (s // 2) + "1" * (s % 2) for s in sizes))


def shards_of(sizes, examples) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)[examples]


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    first = epoch * order.steps_per_epoch
    return np.concatenate([order.batch(first + step).example for step in range(order.steps_per_epoch)])


@properties
@given(orders(), st.integers(0, 3))
def test_an_epoch_holds_each_example_at_most_once_and_nearly_all(order, epoch):
    seen, total = epoch_of(order, epoch), sum(order.sizes)
    assert len(set(seen.tolist())) == len(seen)
    assert seen.min() >= 0 and seen.max() < total
    assert total - len(seen) < order.global_batch + order.streams


@properties
@given(orders(), st.integers(0, 200))
def test_a_batch_has_its_epoch_and_examples_of_the_split(order, step):
    batch = order.batch(step)
    assert batch.epoch == step // order.steps_per_epoch
    assert batch.example.shape == (order.global_batch,)
    assert batch.example.min() >= 0 and batch.example.max() < sum(order.sizes)


@properties
@given(orders(), st.integers(0, 50))
def test_row_r_comes_from_stream_r_mod_streams_whose_shards_never_change(order, step):
    assert (
        shards_of(order.sizes, order.batch(step).example) % order.streams
        == np.arange(order.global_batch) % order.streams
    ).all()


@properties
@given(orders(), st.integers(0, 60), st.integers(0, 60))
def test_batches_are_those_of_their_steps(order, start, length):
    batches = list(order.batches(start, start + length))
    assert len(batches) == length
    for step, batch in enumerate(batches, start):
        assert (batch.example == order.batch(step).example).all() and batch.epoch == order.batch(step).epoch


@properties
@given(
    st.booleans().flatmap(lambda labelled: orders(labelled)), st.integers(1, 3), st.integers(0, 40), st.integers(0, 40)
)
def test_needs_are_the_shards_that_a_worker_reads_with_their_first_and_last_steps(order, workers, start, length):
    workers = min(workers, order.streams)
    for worker in range(workers):
        share = Share(worker, workers)
        (mine,) = replica_rows(order.streams, order.global_batch, share)
        read = {}
        for step in range(start, start + length):
            batch = order.batch(step)
            for shard in shards_of(order.sizes, batch.example[mine[mine >= 0]]).tolist():
                first, _ = read.get((batch.epoch, shard), (step, step))
                read[batch.epoch, shard] = (first, step)
        needs = list(order.needs(share, start, start + length))
        assert [need.first for need in needs] == sorted(need.first for need in needs)
        assert sorted((n.shard, n.first, n.last) for n in needs) == sorted((s, *at) for (_, s), at in read.items())


@properties
@given(orders(), st.integers(0, 60))
def test_starting_at_a_step_equals_having_run_to_it(order, start):
    ran = [order.batch(step).example for step in range(start + 3)]
    fresh = Order(order.sizes, order.streams, order.global_batch, order.seed)
    for step in range(start, start + 3):
        assert (fresh.batch(step).example == ran[step]).all()


@properties
@given(orders())
def test_epochs_and_seeds_give_other_orders(order):
    if order.steps_per_epoch * order.global_batch < 30:
        return
    other = Order(order.sizes, order.streams, order.global_batch, order.seed ^ 1)
    assert (epoch_of(order, 0) != epoch_of(order, 1)).any()
    assert (epoch_of(order, 0) != epoch_of(other, 0)).any()


def test_every_example_is_as_likely_at_any_place_of_its_stream():
    order = Order((20,), 1, 20, 7)
    places = np.array([np.argsort(epoch_of(order, epoch)) for epoch in range(2000)])
    counts = np.stack([np.bincount(column, minlength=20) for column in places.T])
    chi2 = ((counts - 100) ** 2 / 100).sum()
    assert abs(chi2 - 361) < 5 * np.sqrt(2 * 361)  # (20 - 1)² degrees of freedom


def test_the_order_is_the_one_that_runs_were_started_with():
    assert permutation(8, 1, 2, 3).tolist() == [1, 2, 4, 6, 5, 0, 7, 3]
    assert Order((5, 5, 4, 4), 2, 4, 3).batch(9).example.tolist() == [11, 14, 13, 15]


@properties
@given(orders(labelled=True), st.integers(0, 3))
def test_oversampling_balances_every_batch_and_repeats_no_example_of_the_commonest_class(order, epoch):
    labels = np.array([int(digit) for digit in "".join(order.labels)])
    counts = np.bincount(labels, minlength=2)
    first = epoch * order.steps_per_epoch
    for step in range(order.steps_per_epoch):
        ones = labels[order.batch(first + step).example].sum()
        assert abs(2 * ones - order.global_batch) <= (order.global_batch % 2)
    seen = Counter(epoch_of(order, epoch).tolist())
    assert max(seen[i] for i in np.flatnonzero(labels == counts.argmax())) == 1


@properties
@given(orders(labelled=True), st.integers(0, 3))
def test_oversampling_repeats_the_rarer_examples_of_a_stream_evenly(order, epoch):
    labels = np.array([int(digit) for digit in "".join(order.labels)])
    rare = np.bincount(labels, minlength=2).argmin()
    stream = np.repeat(np.arange(len(order.sizes)) % order.streams, order.sizes)
    seen = np.bincount(epoch_of(order, epoch), minlength=len(labels))
    for s in range(order.streams):
        times = seen[(stream == s) & (labels == rare)]
        assert times.max() - times.min() <= 1


def test_oversampling_uses_all_of_the_commonest_class_when_streams_hold_as_many():
    order = Order((10,) * 4, 4, 8, 0, ("0001111111",) * 4)
    seen = set(epoch_of(order, 0).tolist())
    assert order.steps_per_epoch == 7 and len(seen) == 40


@properties
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_the_rows_of_all_workers_are_the_batch_exactly_once(streams, per_stream, workers, replicas):
    if workers * replicas > streams:
        return
    shares = [replica_rows(streams, streams * per_stream, Share(w, workers, replicas)) for w in range(workers)]
    assert len({share.shape for share in shares}) == 1
    real = np.concatenate([share[share >= 0] for share in shares])
    assert sorted(real.tolist()) == list(range(streams * per_stream))
    for worker, share in enumerate(shares):
        assert (share[share >= 0] % streams % workers == worker).all()
        # Mixing and padding rely on this: each stream's rows stand together, and padding is whole streams.
        for stream in share.reshape(-1, per_stream):
            assert len({row % streams if row >= 0 else -1 for row in stream.tolist()}) == 1


@properties
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_evaluation_sees_each_example_exactly_once(sizes, batch, workers, replicas):
    tables = [evaluation_rows(sizes, batch, Share(w, workers, replicas)) for w in range(workers)]
    assert len({table.shape for table in tables}) == 1 and tables[0].shape[1] == replicas
    real = np.concatenate([table[table >= 0] for table in tables])
    assert sorted(real.tolist()) == list(range(sum(sizes)))
    for worker, table in enumerate(tables):
        assert (shards_of(sizes, table[table >= 0]) % workers == worker).all()
        needs = list(evaluation_needs(sizes, batch, Share(worker, workers, replicas)))
        assert [need.first for need in needs] == sorted(need.first for need in needs)
        read = [np.unique(shards_of(sizes, step[step >= 0])) for step in table]
        for shard in range(len(sizes)):
            steps = [step for step, shards in enumerate(read) if shard in shards]
            found = [(need.first, need.last) for need in needs if need.shard == shard]
            assert found == ([(steps[0], steps[-1])] if steps else [])


@pytest.mark.parametrize(
    ("sizes", "streams", "batch", "labels", "told"),
    [
        ((), 4, 8, None, "streams = 4.*0 train shards"),
        ((8,) * 6, 4, 8, None, "streams = 4.*6 train shards"),
        ((8,) * 8, 4, 10, None, "streams = 4.*global_batch = 10"),
        ((8, 8, 8, 12), 4, 8, None, "streams = 4.*8 to 12"),
        ((2,) * 4, 4, 16, None, "global_batch = 16.*8 train examples"),
        ((3,) * 4, 4, 4, ("011", "011", "111", "011"), "oversample.*stream 2 of 4"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(sizes, streams, batch, labels, told):
    with pytest.raises(CallerError, match=told) as error:
        Order(sizes, streams, batch, 0, labels)
    assert "\n" not in str(error.value)
