"""B0 learns to give Lite0's pooled features with swish: distillation without labels.

The teacher is B0 with Lite0's weights and relu6, which computes what Lite0 does, at a larger side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from infra.backbone import mapping, network
from infra.folder_lock import Refused

RATE, WEIGHT_DECAY, CLIP = 7e-4, 1e-4, 10.0

_MOMENTUM = 0.9  # of BatchNorm's statistics, which so follow the change of activations in a short training too
_SMALLEST_WINDOW = 120 / 176  # of the photo's side
_BRIGHTNESS, _COLOUR = 0.2, 0.1  # most by which all channels, and each of them, are scaled up or down
_MEASURED = 500  # photos
_LINE_EVERY = 20  # steps


@dataclass(frozen=True)
class Settings:
    """`sides` are the student's, in turn, and `teacher_side` is the teacher's; in pixels, multiples of 32."""

    epochs: int = 11
    batch: int = 48
    seed: int = 0
    sides: Sequence[int] = (96, 128)
    teacher_side: int = 160


@dataclass(frozen=True)
class Losses:
    """Of each epoch, in training; and of B0 with swish on whole photos, with Lite0's weights and with those it ends with."""

    epochs: list[float]
    mapped: float
    distilled: float


def relu6_share(progress: float) -> float:
    """How much of an activation is relu6, the rest swish: from 1 to 0 over the first quarter of the steps."""
    return max(1 - 4 * progress, 0.0)


def rate(progress: float) -> float:
    """The learning rate: constant, then down to 0 as a cosine over the last 70 % of the steps."""
    return RATE * (1 + math.cos(math.pi * max(progress - 0.3, 0.0) / 0.7)) / 2


def windows(random: np.random.Generator, photos: int, side: int) -> np.ndarray:
    """A square window in each photo, flipped or not: top, left, bottom, right as parts of the side, float32 [photos, 4]."""
    length = random.integers(math.ceil(_SMALLEST_WINDOW * side), side, size=photos, endpoint=True)
    top, left = random.integers(0, side - length, size=(2, photos), endpoint=True)
    right = left + length - 1
    flipped = random.random(photos) < 0.5
    left, right = np.where(flipped, right, left), np.where(flipped, left, right)
    return (np.stack([top, left, top + length - 1, right], axis=1) / (side - 1)).astype(np.float32)


def colours(random: np.random.Generator, photos: int) -> np.ndarray:
    """What each photo's channels are multiplied by, float32 [photos, 1, 1, 3]."""
    brightness = random.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS, size=(photos, 1, 1, 1))
    return (brightness * random.uniform(1 - _COLOUR, 1 + _COLOUR, size=(photos, 1, 1, 3))).astype(np.float32)


def seen(photos: tf.Tensor, boxes: tf.Tensor, factors: tf.Tensor, side: int) -> tf.Tensor:
    """Windows of photos uint8 [n, s, s, 3], as float32 [n, side, side, 3] in 0..255."""
    crops = tf.image.crop_and_resize(tf.cast(photos, tf.float32), boxes, tf.range(tf.shape(boxes)[0]), [side, side])
    return tf.clip_by_value(crops * factors, 0.0, 255.0)


_IMAGES, _FEATURES = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None])


class Pair:
    """Teacher and student, and how far apart they are on images, float32 [n, side, side, 3] in 0..255, of any side."""

    def __init__(self, lite0: Mapping[str, np.ndarray], photos: np.ndarray, settings: Settings) -> None:
        """Raises Refused where the tensors of Lite0 are not those that fit."""
        keras.utils.set_random_seed(settings.seed)
        self.share = tf.Variable(1.0, trainable=False)
        self.student, self.teacher = network.b0(self._activation), network.b0(tf.nn.relu6)
        weights = mapping.to_b0(lite0, network.shapes(self.student))
        for model in (self.teacher, self.student):
            network.assign(model, weights)
        for layer in self.student.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = _MOMENTUM
        self.kernel, self.bias = mapping.head(lite0, self.student.output_shape[-1])
        self.optimizer = keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP)
        self.optimizer.build(self.student.trainable_variables)
        self.sides = settings.sides
        measured = photos[:: math.ceil(len(photos) / _MEASURED)]
        self.measured = [measured[start:][: settings.batch] for start in range(0, len(measured), settings.batch)]
        self.aims = [self.taught(tf.image.resize(batch, [settings.teacher_side] * 2)) for batch in self.measured]
        spread = np.std(np.concatenate(self.aims), axis=0)
        self.spread = np.maximum(spread, 0.1 * spread.mean())  # some features are all but constant on such photos

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.share * tf.nn.relu6(inputs) + (1 - self.share) * tf.nn.silu(inputs)

    @tf.function(input_signature=[_IMAGES])
    def taught(self, images: tf.Tensor) -> tf.Tensor:
        """The teacher's pooled features, float32 [n, features]."""
        return _pooled(self.teacher(images, training=False))

    @tf.function(input_signature=[_IMAGES, _FEATURES])
    def apart(self, images: tf.Tensor, aim: tf.Tensor) -> tf.Tensor:
        """The student's loss, whose features should be `aim`."""
        return self._loss(_pooled(self.student(images, training=False)), aim)

    @tf.function(input_signature=[_IMAGES, _FEATURES])
    def step(self, images: tf.Tensor, aim: tf.Tensor) -> tf.Tensor:
        """Train the student on a batch; its loss before that."""
        variables = self.student.trainable_variables
        with tf.GradientTape() as tape:
            loss = self._loss(_pooled(self.student(images, training=True)), aim)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def _loss(self, got: tf.Tensor, aim: tf.Tensor) -> tf.Tensor:
        """Mean squared difference of the features in standard deviations, plus the divergence of their classes."""
        difference = tf.reduce_mean(tf.square((got - aim) / self.spread))
        aimed, gotten = (tf.nn.log_softmax(features @ self.kernel + self.bias) for features in (aim, got))
        return difference + tf.reduce_mean(tf.reduce_sum(tf.exp(aimed) * (aimed - gotten), axis=-1))

    def measure(self, relu6: float = 0.0) -> float:
        """The loss with such a share of relu6 on whole photos, mean over the sides; with none of it it is B0's as it is used."""
        self.share.assign(relu6)
        losses = [
            len(batch) * float(self.apart(tf.image.resize(batch, [side, side]), aim))
            for batch, aim in zip(self.measured, self.aims, strict=True)
            for side in self.sides
        ]
        return sum(losses) / len(self.sides) / sum(map(len, self.measured))


def distil(lite0: Mapping[str, np.ndarray], photos: np.ndarray, settings: Settings) -> tuple[keras.Model, Losses]:
    """B0 that gives Lite0's pooled features of photos, uint8 [photos, side, side, 3]. Prints how it goes. Raises Refused."""
    pair = Pair(lite0, photos, settings)
    mapped = pair.measure()
    epochs = _train(pair, photos, settings)
    return pair.student, Losses(epochs, mapped, pair.measure())


def _train(pair: Pair, photos: np.ndarray, settings: Settings) -> list[float]:
    random = np.random.default_rng(settings.seed)
    batch = min(settings.batch, len(photos))
    steps = len(photos) // batch
    means = []
    for epoch in range(settings.epochs):
        order, losses = random.permutation(len(photos)), []
        for number in range(steps):
            done = epoch * steps + number
            pair.share.assign(relu6_share(done / (settings.epochs * steps)))
            pair.optimizer.learning_rate.assign(rate(done / (settings.epochs * steps)))
            drawn = (
                photos[order[number * batch :][:batch]],
                windows(random, batch, photos.shape[1]),
                colours(random, batch),
            )
            aim = pair.taught(seen(*drawn, settings.teacher_side))
            losses.append(float(pair.step(seen(*drawn, settings.sides[done % len(settings.sides)]), aim)))
            if not math.isfinite(losses[-1]):
                raise Refused(f"epoch {epoch + 1}, step {number + 1}: the loss is {losses[-1]}")
            if (number + 1) % _LINE_EVERY == 0 or number + 1 == steps:
                recent = np.mean(losses[-_LINE_EVERY:])
                place = f"epoch {epoch + 1} of {settings.epochs}, step {number + 1} of {steps}"
                print(f"{place}: loss {recent:.4f}", flush=True)
        means.append(float(np.mean(losses)))
    return means


def _pooled(maps: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(maps, axis=(1, 2))
