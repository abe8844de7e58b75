"""The pipeline: the order's examples, decoded and cropped, as batches that do not depend on how the work is shared."""

import contextlib
import io
import itertools
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from catdog.data.augment import DRAWS, MIXUP, draws
from catdog.data.cache import open_cache
from catdog.data.order import WHOLE, Order, Share, evaluation_rows, replica_rows
from catdog.data.pipeline import _decode, decode_whole, evaluation_dataset, surfaced, train_dataset
from catdog.data.records import Records
from catdog.data.shards import Shard
from catdog.recipe import Augment, Cache, Data, Recipe
from catdog.storage import open_bucket
from tests.pace import within

SIDE, STREAMS, BATCH, SIZES = 32, 3, 6, (5, 5, 5, 5, 4, 4)


def jpeg(image: np.ndarray, subsampling: int = -1) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=95, subsampling=subsampling)
    return content.getvalue()


def picture(index: int, height: int, width: int) -> np.ndarray:
    """Smooth coloured noise with edges, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(index).integers(0, 256, (7, 9, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    image[height // 3 : height // 2, width // 4 : width // 2] = (index * 37 % 256, 200, 30)
    return image


def example(encoded: bytes, label: int) -> bytes:
    height, width = np.array(Image.open(io.BytesIO(encoded))).shape[:2]
    values = {"image/height": height, "image/width": width, "image/class/label": label}
    features = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])) for name, value in values.items()}
    features["image/encoded"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Shards written by TensorFlow itself; example i has label i mod 2."""
    folder, count = tmp_path_factory.mktemp("shards"), itertools.count()
    result = [folder / f"train-{number}.tfrecord" for number in range(len(SIZES))]
    for path, size in zip(result, SIZES, strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in itertools.islice(count, size):
                writer.write(example(jpeg(picture(index, 40 + index, 70 - index)), index % 2))
    return result


@pytest.fixture(scope="module")
def records(paths):
    with open_cache(open_bucket(str(paths[0].parent)), {}, Cache()) as cache:
        yield Records(shards(paths), cache)


def recipe(**augment) -> Recipe:
    return Recipe(data=Data(side=SIDE, global_batch=BATCH, streams=STREAMS), augment=Augment(**augment))


def train(records, start=0, stop=6, share=WHOLE, **augment) -> list[dict[str, np.ndarray]]:
    order = Order(SIZES, STREAMS, BATCH, 0)
    dataset = train_dataset(order, records, recipe(**augment), start=start, stop=stop, share=share)
    elements = list(dataset.as_numpy_iterator())
    assert len(elements) == dataset.cardinality() == (stop - start) * share.replicas
    return elements


class Noted:
    """A cache that notes which of the shards were asked for, and the passes that have not ended."""

    def __init__(self, paths):
        self._paths = {path.name: path for path in paths}
        self.read: set[int] = set()
        self.passes = 0

    @contextlib.contextmanager
    def follow(self, shards, needs):
        self.passes += 1
        try:
            yield self
        finally:
            self.passes -= 1

    def reach(self, step):
        pass

    def open(self, shard):
        self.read.add(sorted(self._paths).index(shard.name))
        return open(self._paths[shard.name], "rb")


def noted(paths) -> tuple[Noted, Records]:
    cache = Noted(paths)
    return cache, Records(shards(paths), cache)


def shards(paths) -> list[Shard]:
    labels = (str(index % 2) for index in itertools.count())
    return [
        Shard(path.name, "train", 0, "00000000", "".join(itertools.islice(labels, size)))
        for path, size in zip(paths, SIZES, strict=True)
    ]


def by_row(elements: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The real rows of one step's elements, in the order of the global batch."""
    whole = {name: np.concatenate([element[name] for element in elements]) for name in elements[0]}
    at = np.argsort(whole["row"])[(whole["weight"] == 0).sum() :]
    return {name: values[at] for name, values in whole.items()}


def test_elements_hold_the_orders_examples_their_labels_and_draws(records):
    order = Order(SIZES, STREAMS, BATCH, 0)
    (share,) = replica_rows(STREAMS, BATCH, WHOLE)
    for step, element in enumerate(train(records)):
        batch = order.batch(step)
        assert {name: (value.dtype.name, value.shape) for name, value in element.items()} == {
            "image": ("uint8", (BATCH, SIDE, SIDE, 3)),
            "label": ("float32", (BATCH,)),
            "weight": ("float32", (BATCH,)),
            "row": ("int32", (BATCH,)),
            "example": ("int64", (BATCH,)),
            "draws": ("float32", (BATCH, DRAWS)),
        }
        assert (element["row"] == share).all() and (element["weight"] == 1).all()
        assert (element["example"] == batch.example[share]).all()
        assert (element["label"] == element["example"] % 2).all()
        assert (element["draws"] == draws(0, batch.epoch, element["example"])).all()


def test_without_cropping_a_row_is_its_whole_picture(records):
    for element in train(records, stop=2, min_area=1.0):
        for index, image in zip(element["example"], element["image"], strict=True):
            content = jpeg(picture(int(index), 40 + int(index), 70 - int(index)))
            assert (image == decode_whole(tf.constant(content), SIDE).numpy()).all()


def test_starting_at_a_step_gives_what_running_to_it_gave(records):
    whole = train(records, 0, 9)
    for start in (1, 4, 8):
        for ran, resumed in zip(whole[start:], train(records, start, 9), strict=True):
            assert all((ran[name] == resumed[name]).all() for name in ran)


@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (1, 2), (3, 1), (1, 3)])
def test_any_number_of_workers_and_replicas_computes_the_same_rows(records, workers, replicas):
    alone = [by_row([element]) for element in train(records, mixup=0.4)]
    shares = [train(records, 0, 6, Share(w, workers, replicas), mixup=0.4) for w in range(workers)]
    for step, whole in enumerate(alone):
        at = slice(step * replicas, (step + 1) * replicas)
        together = by_row([element for share in shares for element in share[at]])
        assert all((together[name] == whole[name]).all() for name in whole)


def test_padding_is_a_black_picture_of_weight_0_in_whole_streams(records):
    elements = train(records, share=Share(1, 2))
    for element in elements:
        real = element["weight"] == 1
        assert real.tolist() == [True, True, False, False]
        assert (element["row"][~real] == -1).all() and (element["example"][~real] == -1).all()
        assert not element["image"][~real].any() and element["image"][real].any()
    sums = [sum(e["weight"].sum() for e in train(records, share=Share(w, 2))) for w in range(2)]
    assert sum(sums) == 6 * BATCH


def test_a_worker_reads_its_own_shards_only_and_none_before_it_needs_them(paths):
    for worker in range(2):
        cache, records = noted(paths)
        train(records, share=Share(worker, 2))
        assert cache.read and {shard % STREAMS % 2 for shard in cache.read} == {worker}
    (cache, records), order = noted(paths), Order(SIZES, STREAMS, BATCH, 0)
    train(records, start=5, stop=6)
    of_examples = np.repeat(np.arange(len(SIZES)), SIZES)
    assert cache.read == set(of_examples[order.batch(5).example].tolist()) and len(cache.read) == STREAMS


def test_each_pass_over_the_records_gives_the_same_and_ends_with_its_last_element(paths):
    cache, records = noted(paths)
    dataset = train_dataset(Order(SIZES, STREAMS, BATCH, 0), records, recipe(), start=0, stop=30)
    first, again = ([element["example"].tolist() for element in dataset.as_numpy_iterator()] for _ in range(2))
    assert first == again and len(first) == 30
    assert cache.passes == 0


def test_a_pass_that_is_given_up_ends(paths):
    cache, records = noted(paths)
    order = Order(SIZES, STREAMS, BATCH, 0)
    batches = surfaced(train_dataset(order, records, recipe(), start=0, stop=30), records)
    next(batches)
    assert cache.passes == 1
    batches.close()
    assert cache.passes == 0


def test_two_iterators_at_once_get_the_right_elements_or_an_error(records):
    dataset = train_dataset(Order(SIZES, STREAMS, BATCH, 0), records, recipe(), start=0, stop=30)
    expected = [element["example"].tolist() for element in dataset.as_numpy_iterator()]
    both = zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True)
    got = []
    with pytest.raises(tf.errors.OpError, match=r"out of turn|already executing"):
        got.extend([each["example"].tolist() for each in pair] for pair in both)
    assert got == [[each, each] for each in expected[: len(got)]]


def test_where_op_determinism_is_asked_for_records_are_read_ahead_and_the_elements_the_same(records, paths):
    process = multiprocessing.get_context("spawn")
    ours, theirs = process.Pipe()
    child = process.Process(target=give_deterministically, args=(paths, theirs), daemon=True)
    child.start()
    theirs.close()
    assert ours.poll(within(100))
    given = ours.recv()
    for expected, element in zip(train(records), given, strict=True):
        assert all((expected[name] == element[name]).all() for name in expected)
    child.join()
    assert child.exitcode == 0


def give_deterministically(paths: list[Path], to: Connection) -> None:
    """In a process of its own, for it cannot be asked for no longer."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.experimental.enable_op_determinism()
    _, records = noted(paths)
    dataset = train_dataset(Order(SIZES, STREAMS, BATCH, 0), records, recipe(), start=0, stop=6)
    elements = dataset.as_numpy_iterator()
    first = next(elements)
    wait_for(lambda: len(records.handed) >= 3)
    to.send([first, *elements])


def wait_for(condition) -> None:
    end = time.monotonic() + within(20)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_mixup_changes_the_draw_of_its_column_alone(records):
    for plain, mixed in zip(train(records), train(records, mixup=0.3), strict=True):
        same = (plain["draws"] == mixed["draws"]).all(axis=0)
        assert [column for column in range(DRAWS) if not same[column]] == [MIXUP]


@pytest.mark.parametrize(("workers", "replicas", "batch"), [(1, 1, 5), (2, 1, 5), (1, 2, 7), (4, 2, 8), (8, 1, 30)])
def test_evaluation_gives_each_picture_once_whole_with_its_label(records, workers, replicas, batch):
    seen: dict[int, int] = {}
    for worker in range(workers):
        share = Share(worker, workers, replicas)
        dataset, table = evaluation_dataset(records, SIDE, batch, share), evaluation_rows(SIZES, batch, share)
        elements = list(dataset.as_numpy_iterator())
        assert [e["example"].tolist() for e in elements] == table.reshape(-1, table.shape[2]).tolist()
        for element in elements:
            real = element["weight"] == 1
            assert (real == (element["example"] >= 0)).all()
            assert (element["label"][real] == element["example"][real] % 2).all()
            for index, image in zip(element["example"][real].tolist(), element["image"][real], strict=True):
                seen[index] = seen.get(index, 0) + 1
                content = jpeg(picture(index, 40 + index, 70 - index))
                assert (image == decode_whole(tf.constant(content), SIDE).numpy()).all()
    assert seen == dict.fromkeys(range(sum(SIZES)), 1)


def weights(old: int, new: int) -> np.ndarray:
    """How much of each old pixel goes into each new one: by the area they share, or linearly where `new` is more."""
    scale = old / new
    if scale > 1:
        edges = np.arange(new)[:, None] * scale
        return np.clip(np.minimum(edges + scale, np.arange(old) + 1) - np.maximum(edges, np.arange(old)), 0, 1) / scale
    at = np.clip((np.arange(new)[:, None] + 0.5) * scale - 0.5, 0, old - 1)
    return np.clip(1 - np.abs(at - np.arange(old)), 0, 1)


@pytest.mark.parametrize(("height", "width"), [(256, 341), (32, 32), (20, 26), (20, 90), (300, 30)])
def test_a_window_is_averaged_where_it_shrinks_and_interpolated_where_it_grows(height, width):
    content = jpeg(picture(5, height, width), subsampling=0)
    top, left, tall, wide = height // 10, width // 8, height * 3 // 4, width * 3 // 4
    pixels = np.array(Image.open(io.BytesIO(content)), float)[top : top + tall, left : left + wide]
    wanted = np.einsum("yh,xw,hwc->yxc", weights(tall, SIDE), weights(wide, SIDE), pixels)
    got = _decode(tf.constant(content), tf.constant([top, left, tall, wide]), SIDE).numpy()
    assert np.abs(got - wanted).max() < 0.51


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = decode_whole(tf.constant(jpeg(stripes)), SIDE).numpy()
    assert np.abs(grey.astype(int) - 127).max() <= 3
