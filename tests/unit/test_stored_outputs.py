"""Outputs of a frozen part: computed once each, in the order of need, and kept."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, picture

from catdog.data.cache import open_cache
from catdog.data.cache.disk import DiskCache
from catdog.data.example import encode_example
from catdog.data.order import WHOLE, Order, Share
from catdog.data.records import Records
from catdog.data.shards import Shard
from catdog.data.tfrecord import write_records
from catdog.recipe import Cache, Data, Recipe
from catdog.storage import open_bucket
from catdog.training.stored_outputs import StoredOutputs

SIZES = (7, 6, 5, 6)
RECIPE = Recipe(data=Data(side=32, global_batch=6, streams=2))
ORDER = Order(SIZES, RECIPE.data.streams, RECIPE.data.global_batch, 0)


class MeanColour:
    """In place of a model's lower part; counts what it is asked for."""

    rows, shape = 4, (3,)

    def __init__(self) -> None:
        self.computed: Counter[bytes] = Counter()

    def digests(self, shards: Sequence[Shard], view: int | None) -> list[str]:
        return [f"{shards.index(shard) + 100 * (1 if view is None else 2 + view):032x}" for shard in shards]

    def outputs(self, images: tf.Tensor, draws: tf.Tensor, *, varied: bool) -> np.ndarray:
        assert images.shape == (4, 32, 32, 3)
        found = tf.reduce_mean(tf.cast(images, tf.float32), (1, 2)).numpy().astype(np.float16)
        self.computed.update(row.tobytes() for row in found if row.any())
        return found


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    folder, shards, index = tmp_path_factory.mktemp("data"), [], 0
    for number, size in enumerate(SIZES):
        name = f"train-{number:05d}-of-{len(SIZES):05d}.tfrecord"
        contents = [
            encode_example(
                {
                    "image/encoded": encoded(picture(index + place)),
                    "image/height": 40,
                    "image/width": 48,
                    "image/class/label": 0,
                }
            )
            for place in range(size)
        ]
        write_records(folder / name, contents)
        shards.append(Shard(name, "train", 0, "00000000", "0" * size))
        index += size
    with open_cache(open_bucket(str(folder)), {}, Cache()) as cache:
        yield Records(shards, cache)


def stored(
    records: Records, folder: Path | None, part: MeanColour | None = None, share: Share = WHOLE
) -> StoredOutputs:
    disk = None if folder is None else DiskCache(folder, 10**6)
    return StoredOutputs(part or MeanColour(), records, RECIPE, share, disk)


def epoch(number: int) -> list[np.ndarray]:
    per_epoch = ORDER.steps_per_epoch
    return [batch.example for batch in ORDER.batches(number * per_epoch, (number + 1) * per_epoch)]


def read(outputs: StoredOutputs, steps: list[np.ndarray], view: int | None = 0) -> list[np.ndarray]:
    return list(outputs.of(steps, view, contextlib.nullcontext))


def test_an_output_is_that_of_its_example_stored_or_not_and_padding_has_zeros(records: Records, tmp_path: Path) -> None:
    steps = [np.array([3, -1, 20, 3]), np.array([-1, -1, -1, -1]), np.array([0, 20, 23, 7])]
    single = {int(e): read(stored(records, None), [np.array([e])])[0][0] for e in {*np.concatenate(steps)} - {-1}}
    assert len({row.tobytes() for row in single.values()}) == len(single)
    for folder in (None, tmp_path, tmp_path):
        for examples, found in zip(steps, read(stored(records, folder), steps), strict=True):
            expected = [single[int(e)] if e >= 0 else np.zeros(3, np.float16) for e in examples]
            assert np.array_equal(found, expected)


def test_each_picture_is_computed_once_and_all_are_after_one_epoch(records: Records, tmp_path: Path) -> None:
    part = MeanColour()
    outputs = stored(records, tmp_path, part)
    for number in range(3):
        read(outputs, epoch(number))
    assert len(part.computed) == sum(SIZES) and set(part.computed.values()) == {1}
    read(stored(records, tmp_path, part), epoch(3))
    assert set(part.computed.values()) == {1}


def test_no_more_than_a_pass_is_computed_before_the_first_step(records: Records, tmp_path: Path) -> None:
    part = MeanColour()
    steps = stored(records, tmp_path, part).of(epoch(0), 0, contextlib.nullcontext)
    next(steps)
    assert part.computed.total() <= RECIPE.data.global_batch + part.rows
    steps.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_each_view_and_the_whole_picture_have_outputs_of_their_own(records: Records, tmp_path: Path) -> None:
    outputs, examples = stored(records, tmp_path), [np.arange(5)]
    found = [read(outputs, examples, view)[0].tobytes() for view in (0, 1, None)]
    assert len({*found}) == 3
    assert found == [read(outputs, examples, view)[0].tobytes() for view in (0, 1, None)]


def test_workers_compute_their_own_shards_and_find_the_same(records: Records, tmp_path: Path) -> None:
    alone = read(stored(records, None), epoch(0))
    parts = [MeanColour(), MeanColour()]
    for worker, part in enumerate(parts):
        share = Share(worker, 2, 1)
        rows = np.arange(6) % 2 == worker  # the rows of its stream
        steps = [examples[rows] for examples in epoch(0)]
        found = read(stored(records, tmp_path, part, share), steps)
        assert all(np.array_equal(a, b[rows]) for a, b in zip(found, alone, strict=True))
    assert not parts[0].computed.keys() & parts[1].computed.keys()
    assert sum(part.computed.total() for part in parts) == sum(SIZES)


def test_without_room_each_step_computes_what_it_needs(records: Records) -> None:
    part = MeanColour()
    outputs = stored(records, None, part)
    read(outputs, epoch(0))
    before = part.computed.total()
    read(outputs, epoch(0))
    assert part.computed.total() == 2 * before
