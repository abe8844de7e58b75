"""Order and records → batches of tensors, decoded and cropped on the host's cores."""

import functools
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image

from catdog.data.augment import DRAWS, crop_window, draws
from catdog.data.example import encode_example
from catdog.data.order import WHOLE, Order, Share, evaluation_needs, evaluation_rows, needs_of, replica_rows
from catdog.data.process_pool import cores
from catdog.data.records import Reader, Records
from catdog.errors import RunError, one_line
from catdog.recipe import Recipe

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}

_OF_RECORDS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)
"""What TensorFlow raises at a record that it cannot read; the second where its message has bytes of the record in it."""

T = TypeVar("T")
Row = dict[str, tf.Tensor]
Element = dict[str, np.ndarray | list[bytes]]


def train_dataset(
    order: Order, records: Records, recipe: Recipe, *, start: int, stop: int, share: Share = WHOLE
) -> tf.data.Dataset:
    """The steps from `start` up to but not including `stop`: one element a step and replica, replicas in turn.

    An element has image uint8 [b, side, side, 3]; label and weight float32 [b]; row int32 [b], the row of the global
    batch; example int64 [b]; draws float32 [b, DRAWS], as `augment.draws` gives them. Padding is a black picture of
    weight 0, row -1, example -1. No record is read that is not in an element.
    """
    table = replica_rows(order.streams, order.global_batch, share)

    def elements() -> Iterator[Element]:
        with records.reading(order.needs(share, start, stop)) as reader:
            for step, batch in enumerate(order.batches(start, stop), start):
                reader.reach(step)
                for rows in table:
                    example = np.where(rows >= 0, batch.example[rows], -1)
                    records.handed.append(example)
                    numbers = draws(recipe.run.seed, batch.epoch, example, recipe.augment.mixup)
                    yield _element(reader, example) | {"row": rows, "draws": numbers}

    def image(stored: Row, row: Row) -> tf.Tensor:
        shape = stored["image/height"], stored["image/width"]
        window = crop_window(*shape, row["draws"], recipe.augment.min_area)
        return _decode(stored["image/encoded"], window, recipe.data.side)

    b = table.shape[1]
    more = {"row": tf.TensorSpec((b,), tf.int32), "draws": tf.TensorSpec((b, DRAWS), tf.float32)}
    return _dataset(elements, image, b, (stop - start) * share.replicas, share.replicas, more)


def evaluation_dataset(records: Records, side: int, batch: int, share: Share = WHOLE) -> tf.data.Dataset:
    """Each example of a split exactly once, in the order of `evaluation_rows`: one element a step and replica.

    An element has image uint8 [b, side, side, 3]; label and weight float32 [b]; example int64 [b]. Padding is a black
    picture of weight 0, example -1.
    """
    table = evaluation_rows(records.sizes, batch, share)
    steps, replicas, b = table.shape

    def elements() -> Iterator[Element]:
        with records.reading(evaluation_needs(records.sizes, batch, share)) as reader:
            for step, rows in enumerate(table):
                reader.reach(step)
                for example in rows:
                    records.handed.append(example)
                    yield _element(reader, example)

    def image(stored: Row, _: Row) -> tf.Tensor:
        return decode_whole(stored["image/encoded"], side)

    return _dataset(elements, image, b, steps * replicas, replicas, {})


def picture_dataset(
    records: Records, examples: np.ndarray, rows: int, recipe: Recipe, view: int | None
) -> tf.data.Dataset:
    """Pictures of some examples, int64 [n], in their order: one element for each `rows` of them, the last one padded.

    An element has image uint8 [rows, side, side, 3], example int64 [rows] and draws float32 [rows, DRAWS]: of what
    `train_dataset` has of them in epoch `view`, or, without a view, whole. Padding is a black picture, example -1.
    """
    side, count = recipe.data.side, -(-len(examples) // rows)
    table = np.full((count, rows), -1, np.int64)
    table.reshape(-1)[: len(examples)] = examples

    def elements() -> Iterator[Element]:
        with records.reading(needs_of(records.sizes, table)) as reader:
            for step, some in enumerate(table):
                reader.reach(step)
                records.handed.append(some)
                yield _element(reader, some) | {"draws": draws(recipe.run.seed, view or 0, some)}

    def image(stored: Row, row: Row) -> tf.Tensor:
        if view is None:
            return decode_whole(stored["image/encoded"], side)
        window = crop_window(stored["image/height"], stored["image/width"], row["draws"], recipe.augment.min_area)
        return _decode(stored["image/encoded"], window, side)

    return _dataset(elements, image, rows, count, 1, {"draws": tf.TensorSpec((rows, DRAWS), tf.float32)})


def surfaced(batches: Iterable[T], records: Records) -> Iterator[T]:
    """The batches of a dataset on these records; what fails in reading them is raised as it was, with its traceback.

    At the end, and where they are given up, the passes over the records end. Raises RunError for a shard that is broken
    and for a record that holds no picture.
    """
    try:
        yield from batches
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        if isinstance(records.failure, ValueError):
            raise RunError(f"{records.failure}; `catdog verify` tells more") from records.failure
        if records.failure is not None:
            raise records.failure from None
        records.end_passes()  # what they hold of the cache may be what the next one needs
        if isinstance(error, _OF_RECORDS) and (fault := _fault(records)):
            raise RunError(f"{fault}; `catdog verify` tells more") from error
        raise
    finally:
        records.end_passes()


def _fault(records: Records) -> str | None:
    """The first of the records handed over last that holds no picture, with the reason; None where all do."""
    handed = np.unique(np.concatenate([*records.handed, [-1]]))
    with records.reading() as reader:
        for example in handed[handed >= 0].tolist():
            try:
                stored = tf.io.parse_single_example(reader.read([example])[0], _FEATURES)
                window = [0, 0, *(tf.cast(stored[f"image/{name}"], tf.int32) for name in ("height", "width"))]
                tf.image.decode_and_crop_jpeg(stored["image/encoded"], tf.stack(window), channels=3)
            except _OF_RECORDS as error:
                return f"{records.place(example)}: holds no picture as it should: {_words(error)}"
    return None


def _words(error: Exception) -> str:
    """What TensorFlow says, without its marks of where in its graph it was."""
    raw = error.object if isinstance(error, UnicodeDecodeError) else one_line(error).encode(errors="replace")
    text = " ".join(raw.decode(errors="backslashreplace").split())
    return re.sub(r"\{\{.*?\}\}|\[Op:.*", "", text).strip()[:300]


def decode_whole(encoded: tf.Tensor, side: int) -> tf.Tensor:
    """The whole picture of a JPEG, a string scalar, squashed to uint8 [side, side, 3]."""
    shape = tf.image.extract_jpeg_shape(encoded)
    return _decode(encoded, tf.stack([0, 0, shape[0], shape[1]]), side)


def _decode(encoded: tf.Tensor, window: tf.Tensor, side: int) -> tf.Tensor:
    """The window of a JPEG, decoded alone and resized to uint8 [side, side, 3].

    A dimension that shrinks is averaged over the area of each new pixel, so nothing aliases; one that grows is
    interpolated bilinearly. `tf.image.resize(antialias=True)` takes several times as long, more than the decoding.
    """
    # libjpeg-turbo's exact IDCT and chroma upsampling are as fast as its rough ones.
    picture = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")
    shrunk = tf.raw_ops.ResizeArea(images=picture[None], size=tf.minimum(window[2:], side))
    image = tf.raw_ops.ResizeBilinear(images=shrunk, size=[side, side], half_pixel_centers=True)[0]
    return tf.cast(image + 0.5, tf.uint8)


def _element(reader: Reader, example: np.ndarray) -> Element:
    """The records of some examples, of which -1 is padding."""
    real = iter(reader.read(example[example >= 0].tolist()))
    content = [next(real) if index >= 0 else _blank() for index in example.tolist()]
    return {"record": content, "weight": (example >= 0).astype(np.float32), "example": example}


@functools.cache
def _blank() -> bytes:
    """What padding holds: a serialized Example of one black pixel, so that no worker reads a shard that is not its."""
    content = io.BytesIO()
    Image.new("RGB", (1, 1)).save(content, "JPEG")
    sizes = {"image/height": 1, "image/width": 1, "image/class/label": 0}
    return encode_example({"image/encoded": content.getvalue(), **sizes})


class _InTurn:
    """The elements of a generator by their number, for one iterator at a time that asks for 0, 1, ... `count` - 1.

    What `tf.data.Dataset.from_generator` is for, but with a function that is not stateful to TensorFlow: where op
    determinism is asked for, tf.data reads nothing ahead and decodes one picture at a time if any function of a dataset
    is. TensorFlow keeps the function, and so a pass that is given up; `surfaced` ends what that pass holds.
    """

    def __init__(
        self, elements: Callable[[], Iterator[Element]], count: int, signature: dict[str, tf.TensorSpec]
    ) -> None:
        self._elements, self._count, self._signature = elements, count, signature
        self._under_way: Iterator[tuple[int, Element]] = iter(())

    def __call__(self, number: tf.Tensor) -> Row:
        """The element of a number, which is a tensor, as tensors."""
        dtypes = [spec.dtype for spec in self._signature.values()]
        tensors = tf.numpy_function(self._next, [number], dtypes, stateful=False)
        named = zip(self._signature.items(), tensors, strict=True)
        return {name: tf.ensure_shape(tensor, spec.shape) for (name, spec), tensor in named}

    def _next(self, number: np.int64) -> list[np.ndarray]:
        if number == 0:
            self._under_way = enumerate(self._elements())
        at, element = next(self._under_way, (self._count, {}))
        if at != number:
            raise RuntimeError(f"element {number} of {self._count} was asked for out of turn, or there are not so many")
        if number == self._count - 1:
            next(self._under_way, None)  # the pass over the records ends
        return [np.asarray(element[name], spec.dtype.as_numpy_dtype) for name, spec in self._signature.items()]


def _dataset(
    elements: Callable[[], Iterator[Element]],
    image: Callable[[Row, Row], tf.Tensor],
    rows: int,
    count: int,
    of_a_step: int,
    more: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """Batches of `rows` from `count` elements, whose records `image` turns to pictures, one at a time on every core.

    Two steps ahead are held ready, each of so many elements.
    """
    types = {"record": tf.string, "weight": tf.float32, "example": tf.int64}
    signature = {name: tf.TensorSpec((rows,), dtype) for name, dtype in types.items()} | more

    def decoded(row: Row) -> Row:
        stored = tf.io.parse_single_example(row["record"], _FEATURES)
        label = tf.cast(stored["image/class/label"], tf.float32)
        kept = {name: tensor for name, tensor in row.items() if name != "record"}
        return kept | {"image": image(stored, row), "label": label}

    options = tf.data.Options()
    options.deterministic = True
    # The tuner's thread sleeps twice as long each time, up to a minute, and may keep an iterator from ending till it wakes.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_optimization.map_parallelization = False  # of what is asked for in turn
    # Python hands over whole batches; cutting them up again lets every core decode single pictures.
    dataset = tf.data.Dataset.range(count).map(_InTurn(elements, count, signature)).prefetch(2 * of_a_step).unbatch()
    dataset = dataset.map(decoded, num_parallel_calls=cores())
    dataset = dataset.batch(rows, drop_remainder=True).apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(2 * of_a_step).with_options(options)
