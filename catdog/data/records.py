"""The records of a split by their example: its shards' records one after another; with no TensorFlow."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from catdog.data.cache import ShardCache, ShardFiles
from catdog.data.example import holds_int
from catdog.data.order import Need, class_indices, first_examples
from catdog.data.picture_bytes import MAX_SCANS, START_OF_SCAN
from catdog.data.shards import Shard
from catdog.data.tfrecord import checked_payload, record_index
from catdog.errors import FinalError
from catdog.storage import Changed


class Records:
    """A split, to be read in passes. What stays from pass to pass is the index of each shard that was read from."""

    def __init__(self, shards: Sequence[Shard], cache: ShardCache) -> None:
        self._shards = tuple(shards)
        self._cache = cache
        self._indices: dict[int, np.ndarray] = {}
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
        try:
            with self._cache.follow(self._shards, iter(needs)) as files:
                yield Reader(self._shards, files, self._indices)
        except Exception as error:
            self.failure = error
            raise


class Reader:
    """One pass over a split. A shard's file is opened for each read, a matter of microseconds, so that none stays open."""

    def __init__(self, shards: Sequence[Shard], files: ShardFiles, indices: dict[int, np.ndarray]) -> None:
        self._shards = shards
        self._files = files
        self._indices = indices
        self._starts = first_examples([shard.examples for shard in shards])

    def reach(self, step: int) -> None:
        """Tell that the pass is at a step; what follows are its reads."""
        self._files.reach(step)

    def read(self, example: int) -> bytes:
        """The payload of one record, a serialized tf.train.Example.

        Raises ValueError when the shard's file is broken or holds other than the manifest's number of records, Changed when
        the record is not what was written or its file is another one than was pinned, and FinalError for a record that is
        not of the class that the manifest says.
        """
        number = int(np.searchsorted(self._starts, example, side="right")) - 1
        shard = self._shards[number]
        with self._files.open(shard) as file:
            if number not in self._indices:
                index = record_index(file)
                if len(index) != shard.examples:
                    raise ValueError(f"{file.name}: {len(index)} records, the manifest says {shard.examples}")
                self._indices[number] = index
            place = example - int(self._starts[number])
            offset, length = self._indices[number][place].tolist()
            try:
                payload = checked_payload(file, offset, length)
            except ValueError as error:
                raise Changed(f"{file.name}: record {place}: {error}; `catdog verify` reads all of them") from None
            _require_label(payload, shard, place)
            _require_few_scans(payload, shard, place)
            return payload


def _require_few_scans(payload: bytes, shard: Shard, place: int) -> None:
    """For TensorFlow decodes whatever there is."""
    if (scans := payload.count(START_OF_SCAN)) > MAX_SCANS:
        raise FinalError(f"{shard.name} record {place}: {scans} scans are more than the {MAX_SCANS} allowed in a JPEG")


def _require_label(payload: bytes, shard: Shard, place: int) -> None:
    label = int(shard.labels[place])
    try:
        if holds_int(payload, "image/class/label", label):
            return
        fault = f"its label is not {label}, which the manifest says"
    except ValueError as error:
        fault = f"is no tf.train.Example: {error}"
    raise FinalError(f"{shard.name} record {place}: {fault}; `catdog verify` tells more")
