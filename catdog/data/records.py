"""The records of a split by their example: its shards' records one after another; with no TensorFlow."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from catdog.data.cache import ShardCache, ShardFiles
from catdog.data.example import decode_example
from catdog.data.order import Need, class_indices, first_examples
from catdog.data.picture_bytes import MAX_SCANS, START_OF_SCAN
from catdog.data.shards import Shard
from catdog.data.tfrecord import checked_payload, record_index
from catdog.errors import FinalError
from catdog.storage import Changed


@dataclass(frozen=True)
class _Index:
    """Of the records of a shard."""

    spans: np.ndarray
    """Offset and length of each payload, int64 [records, 2]."""
    seen: np.ndarray
    """Bool [records]: whether what a payload holds was looked at, whose bytes are then known by their checksum."""


class Records:
    """A split, to be read in passes. What stays from pass to pass is the index of each shard that was read from."""

    def __init__(self, shards: Sequence[Shard], cache: ShardCache) -> None:
        self._shards = tuple(shards)
        self._cache = cache
        self._indices: dict[int, _Index] = {}
        self._passes: list[contextlib.ExitStack] = []
        self.failure: Exception | None = None
        """What ended a pass early, as it was raised; TensorFlow tells of it in its own words only."""
        self.handed: deque[np.ndarray] = deque(maxlen=256)
        """The examples of the batches that were handed to TensorFlow last, which tells of no record that it cannot read."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Examples of each shard."""
        return tuple(shard.examples for shard in self._shards)

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self._shards

    @property
    def labels(self) -> np.ndarray:
        """Class of each example, int64 [examples]."""
        return class_indices(shard.labels for shard in self._shards)

    def place(self, example: int) -> str:
        """What the record of an example is called."""
        starts = first_examples(self.sizes)
        number = int(np.searchsorted(starts, example, side="right")) - 1
        return f"{self._shards[number].name} record {example - int(starts[number])}"

    @contextlib.contextmanager
    def reading(self, needs: Iterable[Need] = ()) -> Iterator["Reader"]:
        """A pass over the split that reads what it needs, step by step; without needs, what it happens to ask for."""
        held = contextlib.ExitStack()
        self._passes.append(held)
        try:
            with held:
                files = held.enter_context(self._cache.follow(self._shards, iter(needs)))
                yield Reader(self._shards, files, self._indices)
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._passes.remove(held)

    def end_passes(self) -> None:
        """Let go of what each pass holds that has not ended, for the one who reads them gives up."""
        for held in list(self._passes):
            held.close()


class Reader:
    """One pass over a split. A shard's file is opened for each batch, so that none stays open."""

    def __init__(self, shards: Sequence[Shard], files: ShardFiles, indices: dict[int, _Index]) -> None:
        self._shards = shards
        self._files = files
        self._indices = indices
        self._starts = first_examples([shard.examples for shard in shards])

    def reach(self, step: int) -> None:
        """Tell that the pass is at a step; what follows are its reads."""
        self._files.reach(step)

    def read(self, examples: Sequence[int]) -> list[bytes]:
        """The payloads of some records, serialized tf.train.Examples, in their order; each shard's are read in one go.

        Raises ValueError when a shard's file is broken or holds other than the manifest's number of records, Changed when
        a record is not what was written or its file is another one than was pinned, and FinalError for a record that is
        not of the class that the manifest says.
        """
        numbers = np.searchsorted(self._starts, examples, side="right") - 1
        found = [b""] * len(examples)
        for number in np.unique(numbers).tolist():
            wanted = np.flatnonzero(numbers == number).tolist()
            with self._files.open(self._shards[number]) as file:
                index = self._index(number, file)
                for at in wanted:
                    found[at] = self._payload(file, number, index, examples[at] - int(self._starts[number]))
        return found

    def _index(self, number: int, file: BinaryIO) -> _Index:
        shard = self._shards[number]
        if number not in self._indices:
            spans = record_index(file)
            if len(spans) != shard.examples:
                raise ValueError(f"{file.name}: {len(spans)} records, the manifest says {shard.examples}")
            self._indices[number] = _Index(spans, np.zeros(len(spans), np.bool_))
        return self._indices[number]

    def _payload(self, file: BinaryIO, number: int, index: _Index, place: int) -> bytes:
        shard = self._shards[number]
        offset, length = index.spans[place].tolist()
        try:
            payload = checked_payload(file, offset, length)
        except ValueError as error:
            raise Changed(f"{file.name}: record {place}: {error}; `catdog verify` reads all of them") from None
        if not index.seen[place]:
            _require_label(payload, shard, place)
            _require_few_scans(payload, shard, place)
            index.seen[place] = True
        return payload


def _require_few_scans(payload: bytes, shard: Shard, place: int) -> None:
    """For TensorFlow decodes whatever there is."""
    if (scans := payload.count(START_OF_SCAN)) > MAX_SCANS:
        raise FinalError(f"{shard.name} record {place}: {scans} scans are more than the {MAX_SCANS} allowed in a JPEG")


def _require_label(payload: bytes, shard: Shard, place: int) -> None:
    """Taken apart in Python first: TensorFlow's parser trusts what it is given."""
    label = int(shard.labels[place])
    try:
        if decode_example(payload).get("image/class/label") == label:
            return
        fault = f"its label is not {label}, which the manifest says"
    except ValueError as error:
        fault = f"is no tf.train.Example: {error}"
    raise FinalError(f"{shard.name} record {place}: {fault}; `catdog verify` tells more")
