"""What the frozen part of a model gives: computed when a step first needs it, and kept for the steps after."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from catdog.data.cache import Rows, disk_cache, file_size
from catdog.data.cache.disk import DiskCache
from catdog.data.order import Share, first_examples, shards_of
from catdog.data.pipeline import picture_dataset, surfaced
from catdog.data.records import Records
from catdog.recipe import Recipe
from catdog.training.frozen_part import FrozenPart, Halves

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Waiting = Callable[[], contextlib.AbstractContextManager[None]]
"""Times the wait for pictures."""


class StoredOutputs:
    """The outputs of a split's records, of those shards that one worker reads."""

    def __init__(
        self, part: FrozenPart, records: Records, recipe: Recipe, share: Share, disk: DiskCache | None
    ) -> None:
        self._part, self._records, self._recipe, self._disk = part, records, recipe, disk
        self._own = range(share.worker, len(records.shards), share.workers)

    def of(self, steps: Sequence[Ints], view: int | None, waiting: Waiting) -> Iterator[Halves]:
        """For each step the outputs, float16 [rows, ...], of some examples, int64 [rows] in which -1 is padding.

        They are as `augment.draws` varies a picture in epoch `view`, or, without a view, of the whole one. What is not
        there yet is computed when a step needs it, and at their end what no step did; without a disk all of it, each time.
        """
        with contextlib.closing(self._begin(view)) as kept:
            missing = [kept.missing(examples) for examples in steps]
            others = kept.others()
            compute = self._computed(np.concatenate([*missing, others]), view, waiting)
            for examples, some in zip(steps, missing, strict=True):
                kept.put(some, compute(len(some)))
                yield kept.get(examples)
            kept.put(others, compute(len(others)))

    def _begin(self, view: int | None) -> "_Kept":
        if self._disk is None:
            return _OfStep(self._part.shape)
        return _OnDisk(self._disk, self._part, self._records, self._own, view)

    def _computed(self, examples: Ints, view: int | None, waiting: Waiting) -> Callable[[int], Halves]:
        """A function that gives the outputs of the next so many of the examples."""
        passes = self._passes(examples, view, waiting)
        ready: Halves = np.empty((0, *self._part.shape), np.float16)

        def compute(count: int) -> Halves:
            nonlocal ready
            parts = [ready]
            while sum(map(len, parts)) < count:
                parts.append(next(passes))
            ready = np.concatenate(parts)
            found, ready = ready[:count], ready[count:]
            return found

        return compute

    def _passes(self, examples: Ints, view: int | None, waiting: Waiting) -> Iterator[Halves]:
        if not len(examples):
            return
        dataset = picture_dataset(self._records, examples, self._part.rows, self._recipe, view)
        pictures = surfaced(dataset, self._records)
        while True:
            with waiting():
                element = next(pictures, None)
            if element is None:
                return
            yield self._part.outputs(element["image"], element["draws"], varied=view is not None)


def stored_bytes(part: FrozenPart, records: Records, share: Share, views: int) -> int:
    """What the files of a worker's shards take, in so many views."""
    return views * sum(file_size(examples, part.shape) for examples in records.sizes[share.worker :: share.workers])


def disk_for(recipe: Recipe, size: int) -> DiskCache | None:
    """The cache's folder if it has room for so many bytes."""
    disk = disk_cache(recipe.cache)
    return disk if disk.fits(size) else None


class _Kept(Protocol):
    """Outputs by their example."""

    def missing(self, examples: Ints) -> Ints:
        """Those of the examples, each once, that are not there and that no earlier call has told."""

    def others(self) -> Ints:
        """All others that are not there."""

    def put(self, examples: Ints, outputs: Halves) -> None: ...

    def get(self, examples: Ints) -> Halves: ...

    def close(self) -> None: ...


class _OnDisk:
    """A file for each shard."""

    def __init__(
        self, disk: DiskCache, part: FrozenPart, records: Records, own: Sequence[int], view: int | None
    ) -> None:
        self._sizes, self._own, self._shape = records.sizes, own, part.shape
        self._starts = first_examples(self._sizes)
        self._told = np.zeros(sum(self._sizes), np.bool_)
        self._rows: dict[int, Rows] = {}
        shards = [records.shards[number] for number in own]
        for number, shard, digest in zip(own, shards, part.digests(shards, view), strict=True):
            path = disk.path(shard.name, file_size(shard.examples, part.shape), digest)
            self._rows[number] = rows = Rows(disk, path, shard.examples, part.shape)
            self._told[self._starts[number] :][: shard.examples] = rows.there

    def missing(self, examples: Ints) -> Ints:
        new = examples[examples >= 0]
        new = new[np.sort(np.unique(new, return_index=True)[1])]
        new = new[~self._told[new]]
        self._told[new] = True
        return new

    def others(self) -> Ints:
        own = [self._starts[number] + np.arange(self._sizes[number]) for number in self._own]
        return self.missing(np.concatenate([np.empty(0, np.int64), *own]))

    def put(self, examples: Ints, outputs: Halves) -> None:
        for rows, places, which in self._by_shard(examples):
            rows.put(places, outputs[which])

    def get(self, examples: Ints) -> Halves:
        found: Halves = np.zeros((len(examples), *self._shape), np.float16)
        for rows, places, which in self._by_shard(examples):
            found[which] = rows[places]
        return found

    def close(self) -> None:
        for rows in self._rows.values():
            rows.close()

    def _by_shard(self, examples: Ints) -> Iterator[tuple[Rows, Ints, Ints]]:
        """The rows of each shard, which places of them are meant, and where their examples stand."""
        which = np.flatnonzero(examples >= 0)
        shards = shards_of(self._sizes, examples[which])
        for number in np.unique(shards).tolist():
            of_shard = which[shards == number]
            yield self._rows[number], examples[of_shard] - self._starts[number], of_shard


class _OfStep:
    """Nothing longer than for the step that needs it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._examples: Ints = np.empty(0, np.int64)
        self._outputs: Halves = np.empty((0, *shape), np.float16)

    def missing(self, examples: Ints) -> Ints:
        return np.unique(examples[examples >= 0])

    def others(self) -> Ints:
        return np.empty(0, np.int64)

    def put(self, examples: Ints, outputs: Halves) -> None:
        self._examples, self._outputs = examples, outputs

    def get(self, examples: Ints) -> Halves:
        found: Halves = np.zeros((len(examples), *self._shape), np.float16)
        real = examples >= 0
        found[real] = self._outputs[np.searchsorted(self._examples, examples[real])]
        return found

    def close(self) -> None:
        pass
