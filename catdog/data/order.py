"""Which examples make global batch t, and which of its rows are whose: pure functions on NumPy arrays.

Shard i belongs to stream i mod S for ever. Each epoch permutes, by the seed, the shards of a stream and the records of
each shard. Row r of a global batch comes from stream r mod S, so batch t is the same set of examples for any number of
workers, and the position of a run is one integer.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from catdog.errors import CallerError

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class Share:
    """The part of every batch that is one worker's, who divides it among its replicas."""

    worker: int = 0
    workers: int = 1
    replicas: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class Batch:
    """One global batch of G rows."""

    epoch: int
    example: Ints
    """Int64 [G]: each row's index in the split, whose shards' records are counted one after another."""


@dataclass(frozen=True)
class Need:
    """A shard that is read from, and the first and the last step that do so."""

    shard: int
    first: int
    last: int


@dataclass(frozen=True)
class Order:
    """The order of a split for training.

    Within an epoch each example comes at most once, and all but fewer than global_batch + streams of them do.
    With `labels`, one string of digits a shard, each stream takes its classes in turn and repeats the rarer ones: a
    batch holds as many of one class as of another, or one more, and the commonest comes at most once an epoch. Raises
    CallerError when the shards do not fit the streams.
    """

    sizes: tuple[int, ...]
    streams: int
    global_batch: int
    seed: int
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) % self.streams or self.global_batch % self.streams:
            raise CallerError(
                f"data.streams = {self.streams}: must divide both the {len(self.sizes)} train shards of the data set"
                f" and data.global_batch = {self.global_batch}"
            )
        totals = [sum(self.sizes[stream :: self.streams]) for stream in range(self.streams)]
        if max(totals) - min(totals) > 1:
            raise CallerError(
                f"data.streams = {self.streams}: the train shards give streams of {min(totals)} to {max(totals)}"
                " examples, which may differ by one; prepare the data set again"
            )
        if self.steps_per_epoch < 1:
            raise CallerError(
                f"data.global_batch = {self.global_batch}: the {sum(self.sizes)} train examples do not fill one batch"
            )

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        shortest = min(len(self._stream(0, stream)) for stream in range(self.streams))
        return shortest // self._rows

    def batch(self, step: int) -> Batch:
        """The global batch of the step that follows `step` done ones, counted from the start of the run."""
        return next(self.batches(step, step + 1))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The global batches of the steps from `start` up to but not including `stop`."""
        for epoch, first, last in self._epochs(start, stop):
            streams = [self._stream(epoch, stream) for stream in range(self.streams)]
            for within in range(first, last):
                rows = slice(within * self._rows, (within + 1) * self._rows)
                yield Batch(epoch, np.stack([stream[rows] for stream in streams], axis=1).reshape(-1))

    def needs(self, share: Share, start: int, stop: int) -> Iterator[Need]:
        """What a worker reads in the steps from `start` up to but not including `stop`, by first step; anew each epoch."""
        for epoch, first, last in self._epochs(start, stop):
            found: list[Need] = []
            for stream in range(share.worker, self.streams, share.workers):
                examples = self._stream(epoch, stream)[first * self._rows : last * self._rows]
                shards = shards_of(self.sizes, examples)
                steps = epoch * self.steps_per_epoch + first + np.arange(len(shards)) // self._rows
                found += [Need(s, *_ends(steps[shards == s])) for s in np.unique(shards).tolist()]
            yield from sorted(found, key=lambda need: (need.first, need.last, need.shard))

    @property
    def _rows(self) -> int:
        """Rows that each stream gives to a batch."""
        return self.global_batch // self.streams

    def _epochs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Each epoch that the steps reach into, with the first of its own steps that is one of them and the one after
        the last."""
        while start < stop:
            epoch, first = divmod(start, self.steps_per_epoch)
            last = min(self.steps_per_epoch, first + stop - start)
            yield epoch, first, last
            start += last - first

    def _stream(self, epoch: int, stream: int) -> Ints:
        """The examples of one stream in the order of one epoch."""
        shards = np.arange(stream, len(self.sizes), self.streams)
        shards = shards[permutation(len(shards), self.seed, epoch, 0, stream)]
        starts = first_examples(self.sizes)
        parts = [starts[s] + permutation(self.sizes[s], self.seed, epoch, 1, int(s)) for s in shards]
        examples = np.concatenate(parts)
        return examples if self.labels is None else self._balanced(examples, epoch, stream)

    def _balanced(self, examples: Ints, epoch: int, stream: int) -> Ints:
        classes = [examples[self._labels[examples] == label] for label in np.unique(self._labels)]
        turns = [_cycled(members, self._turns, self.seed, epoch, stream) for members in classes]
        # Streams start with different classes, or batches of one row a stream would be of one class.
        return np.roll(np.stack(turns, axis=1), -stream, axis=1).reshape(-1)

    @functools.cached_property
    def _turns(self) -> int:
        """Examples of each class that a stream gives in an epoch: no more of the commonest than any stream holds."""
        stream = np.repeat(np.arange(len(self.sizes)) % self.streams, self.sizes)
        members = [stream[self._labels == label] for label in np.unique(self._labels)]
        counts = np.stack([np.bincount(of_class, minlength=self.streams) for of_class in members])
        if (counts == 0).any():
            raise CallerError(
                f"loss.balance = 'oversample': stream {int(counts.min(axis=0).argmin())} of {self.streams} holds no"
                " example of some class; lower data.streams, or choose 'class_weight'"
            )
        return int(counts[counts.sum(axis=1).argmax()].min())

    @functools.cached_property
    def _labels(self) -> Ints:
        return class_indices(self.labels or ())


def permutation(n: int, *key: int) -> Ints:
    """A permutation of 0..n-1 that depends on the key alone.

    Sorts raw words of Philox (Salmon et al., 2011), which NumPy promises to keep; it does not promise that of its
    `permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(words, kind="stable")


def first_examples(sizes: Sequence[int]) -> Ints:
    """Index in the split of each shard's first example."""
    return np.cumsum([0, *sizes])[:-1]


def replica_rows(streams: int, global_batch: int, share: Share) -> Ints:
    """Which rows of every global batch each replica of a worker computes, int64 [replicas, b]; -1 is padding.

    Replica k of worker w owns the streams s with s mod (workers * replicas) = w + workers * k, so that a worker serves
    the streams s with s mod workers = w. A stream's rows lie together. There are at least as many streams as replicas.
    """
    shares, per_stream = share.workers * share.replicas, global_batch // streams
    assert shares <= streams, "more replicas than streams"
    result = np.full((share.replicas, -(-streams // shares), per_stream), -1, np.int64)
    for replica in range(share.replicas):
        own = np.arange(share.worker + share.workers * replica, streams, shares)
        result[replica, : len(own)] = own[:, None] + streams * np.arange(per_stream)
    return result.reshape(share.replicas, -1)


def class_indices(labels: Iterable[str]) -> Ints:
    """Class of each example, int64 [examples], of shards whose labels have one digit an example."""
    return (np.frombuffer("".join(labels).encode(), np.uint8) - ord("0")).astype(np.int64)


def evaluation_rows(sizes: Sequence[int], batch: int, share: Share) -> Ints:
    """Examples that a worker evaluates, int64 [steps, replicas, b] with `batch` rows over all; -1 is padding.

    Worker w reads the shards i with i mod workers = w; each example comes exactly once over all workers, and every
    worker makes the same number of steps.
    """
    starts = first_examples(sizes)
    own = [np.arange(starts[i], starts[i] + sizes[i]) for i in range(share.worker, len(sizes), share.workers)]
    examples = np.concatenate([np.empty(0, np.int64), *own])
    b = max(-(-batch // (share.workers * share.replicas)), 1)
    most = max(sum(sizes[w :: share.workers]) for w in range(share.workers))
    table = np.full((-(-most // (b * share.replicas)), share.replicas, b), -1, np.int64)
    table.reshape(-1)[: len(examples)] = examples
    return table


def evaluation_needs(sizes: Sequence[int], batch: int, share: Share) -> Iterator[Need]:
    """What a worker reads in the steps of `evaluation_rows`, by first step."""
    return needs_of(sizes, evaluation_rows(sizes, batch, share))


def needs_of(sizes: Sequence[int], table: Ints) -> Iterator[Need]:
    """What is read in steps of which each has some examples, int64 [steps, ...] with -1 for padding, by first step."""
    steps = np.broadcast_to(np.arange(len(table)).reshape(-1, *[1] * (table.ndim - 1)), table.shape)[table >= 0]
    shards = shards_of(sizes, table[table >= 0])
    first = np.full(len(sizes), len(table))
    last = np.full(len(sizes), -1)
    np.minimum.at(first, shards, steps)
    np.maximum.at(last, shards, steps)
    for shard in np.lexsort([last, first]).tolist():
        if last[shard] >= 0:
            yield Need(shard, int(first[shard]), int(last[shard]))


def shards_of(sizes: Sequence[int], examples: Ints) -> Ints:
    """Which shard each example lies in."""
    return np.searchsorted(first_examples(sizes), examples, side="right") - 1


def _ends(steps: Ints) -> tuple[int, int]:
    return int(steps[0]), int(steps[-1])


def _cycled(members: Ints, length: int, seed: int, epoch: int, stream: int) -> Ints:
    """`length` of the members: each once, then again in fresh permutations until there are enough."""
    again = -(-length // len(members)) - 1
    more = [members[permutation(len(members), seed, epoch, 2, stream, cycle)] for cycle in range(again)]
    return np.concatenate([members, *more])[:length]
