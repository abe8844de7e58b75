"""Order and local shards → batches of tensors, decoded and cropped on the host's cores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from catdog.data import order as orders
from catdog.data.augment import CROP_AREA, CROP_ASPECT, CROP_X, CROP_Y, DRAWS, MIXUP, draws
from catdog.data.order import Order
from catdog.data.shards import record_index
from catdog.recipe import Recipe

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}

Row = dict[str, tf.Tensor]


class Shards:
    """Random access to the records of a split's local shard files; indices and maps are made on first use."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, tuple[np.memmap, np.ndarray]] = {}

    def read(self, shard: int, record: int) -> bytes:
        """The payload of one record: a serialized tf.train.Example."""
        if shard not in self._open:
            path = self._paths[shard]
            self._open[shard] = np.memmap(path, np.uint8, "r"), record_index(path)
        content, index = self._open[shard]
        offset, length = index[record]
        return content[offset : offset + length].tobytes()


def train_dataset(
    order: Order,
    paths: Sequence[Path],
    recipe: Recipe,
    *,
    start: int,
    stop: int,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """The steps from `start` up to but not including `stop`: one element a step and replica, replicas in turn.

    An element has image uint8 [b, side, side, 3]; label, weight float32 [b], weight 0 for padding; row int32 [b], the
    row of the global batch; example int64 [b]; draws float32 [b, DRAWS]. Nothing before `start` is read.
    """
    shards, seed = Shards(paths), recipe.run.seed
    table = orders.rows(order.streams, order.global_batch, worker, workers, replicas)

    def elements() -> Iterator[dict[str, np.ndarray | list[bytes]]]:
        for step in range(start, stop):
            batch = order.batch(step)
            for rows in table:
                at = np.maximum(rows, 0)
                numbers = draws(seed, batch.epoch, batch.example[at])
                if (alpha := recipe.augment.mixup) > 0:
                    numbers[:, MIXUP] = betaincinv(alpha, alpha, numbers[:, MIXUP].astype(np.float64))
                yield {
                    "record": [shards.read(s, r) for s, r in zip(batch.shard[at], batch.record[at], strict=True)],
                    "weight": (rows >= 0).astype(np.float32),
                    "row": rows.astype(np.int32),
                    "example": batch.example[at],
                    "draws": numbers,
                }

    smallest = recipe.augment.min_area

    def decode(record: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, _FEATURES)
        window = _crop_window(example["image/height"], example["image/width"], numbers, smallest)
        image = _decode(example["image/encoded"], window, recipe.data.side)
        return image, tf.cast(example["image/class/label"], tf.float32)

    return _dataset(elements, decode, table.shape[1], (stop - start) * replicas, {"row": tf.int32, "draws": tf.float32})


def evaluation_dataset(
    sizes: Sequence[int],
    paths: Sequence[Path],
    side: int,
    batch: int,
    *,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Each example of a split exactly once, in the order of `order.evaluation`: one element a step and replica.

    An element has image uint8 [b, side, side, 3]; label, weight float32 [b], weight 0 for padding; example int64 [b].
    """
    shards = Shards(paths)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    table = orders.evaluation(list(sizes), batch, worker, workers, replicas)

    def elements() -> Iterator[dict[str, np.ndarray | list[bytes]]]:
        for examples in table.reshape(-1, table.shape[2]):
            at = np.where(examples >= 0, examples, 0)
            shard = np.searchsorted(starts, at, side="right") - 1
            yield {
                "record": [shards.read(s, r) for s, r in zip(shard, at - starts[shard], strict=True)],
                "weight": (examples >= 0).astype(np.float32),
                "example": at,
            }

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, _FEATURES)
        return decode_whole(example["image/encoded"], side), tf.cast(example["image/class/label"], tf.float32)

    return _dataset(elements, decode, table.shape[2], table.shape[0] * replicas, {})


def decode_whole(encoded: tf.Tensor, side: int) -> tf.Tensor:
    """The whole picture of a JPEG, a string scalar, squashed to uint8 [side, side, 3]."""
    shape = tf.image.extract_jpeg_shape(encoded)
    return _decode(encoded, tf.stack([0, 0, shape[0], shape[1]]), side)


def _crop_window(height: tf.Tensor, width: tf.Tensor, numbers: tf.Tensor, smallest: float) -> tf.Tensor:
    """Top, left, height and width, int32 [4], of a crop with a random part of the area and a random place.

    Its aspect is jittered by up to 3/4 or 4/3 around the picture's own, not around a square: evaluation squashes the
    whole picture to a square, so crops are squashed alike.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = smallest + (1.0 - smallest) * numbers[CROP_AREA]
    # No aspect can make a side longer than the picture's.
    widest = tf.minimum(tf.math.log(4.0 / 3.0), -tf.math.log(area))
    aspect = tf.exp((2.0 * numbers[CROP_ASPECT] - 1.0) * widest)
    tall = tf.clip_by_value(tf.round(height * tf.sqrt(area / aspect)), 1.0, height)
    wide = tf.clip_by_value(tf.round(width * tf.sqrt(area * aspect)), 1.0, width)
    top = tf.floor(numbers[CROP_Y] * (height - tall + 1.0))
    left = tf.floor(numbers[CROP_X] * (width - wide + 1.0))
    return tf.cast(tf.stack([top, left, tall, wide]), tf.int32)


def _decode(encoded: tf.Tensor, window: tf.Tensor, side: int) -> tf.Tensor:
    """The window of a JPEG, decoded and resized in one go to uint8 [side, side, 3]."""
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_FAST", fancy_upscaling=False)
    image = tf.image.resize(image, (side, side), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def _dataset(
    elements: Callable[[], Iterator[dict[str, np.ndarray | list[bytes]]]],
    decode: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    rows: int,
    count: int,
    more: dict[str, tf.DType],
) -> tf.data.Dataset:
    types = {"record": tf.string, "weight": tf.float32, "example": tf.int64} | more
    shapes = {name: (rows, DRAWS) if name == "draws" else (rows,) for name in types}
    signature = {name: tf.TensorSpec(shapes[name], dtype) for name, dtype in types.items()}

    def decoded(row: Row) -> Row:
        record = row.pop("record")
        image, label = decode(record, row["draws"]) if "draws" in row else decode(record)
        return row | {"image": image, "label": label}

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Python hands over whole batches; cutting them up again lets every core decode single pictures.
    dataset = tf.data.Dataset.from_generator(elements, output_signature=signature).prefetch(2).unbatch()
    dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(rows, drop_remainder=True).apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(2).with_options(options)
