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


class Pair:
    """Teacher and student, and how far apart they are."""

    def __init__(self, lite0: Mapping[str, np.ndarray], photos: np.ndarray, settings: Settings) -> None:
        """Raises Refused where the tensors of Lite0 are not those that fit."""
        keras.utils.set_random_seed(settings.seed)
        self.share = tf.Variable(1.0, trainable=False)
        self.student, self.teacher = network.b0(self._activation), network.b0(tf.nn.relu6)
        weights = mapping.to_b0(lite0, network.shapes(self.student))
        for model in (self.teacher, self.student):
            network.assign(model, weights)
        self.kernel, self.bias = mapping.head(lite0, self.student.output_shape[-1])
        self.optimizer = keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP)
        self.optimizer.build(self.student.trainable_variables)
        self.settings = settings
        self.measured = photos[:: math.ceil(len(photos) / _MEASURED)]
        features = np.concatenate([self._taught(*batch).numpy() for batch in self._whole()])
        spread = features.std(axis=0)
        self.spread = np.maximum(spread, 0.1 * spread.mean())  # some features are all but constant on such photos

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.share * tf.nn.relu6(inputs) + (1 - self.share) * tf.nn.silu(inputs)

    def _whole(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Photos to measure on, in batches, as `seen` takes them: unchanged."""
        size = self.settings.batch
        batches = [self.measured[start : start + size] for start in range(0, len(self.measured), size)]
        return [
            (
                photos,
                np.tile(np.array([0, 0, 1, 1], np.float32), (len(photos), 1)),
                np.ones((len(photos), 1, 1, 3), np.float32),
            )
            for photos in batches
        ]

    @tf.function
    def _taught(self, photos: tf.Tensor, boxes: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        """The teacher's pooled features."""
        return _pooled(self.teacher(seen(photos, boxes, factors, self.settings.teacher_side), training=False))

    @tf.function
    def loss(self, photos: tf.Tensor, boxes: tf.Tensor, factors: tf.Tensor, side: int, *, training: bool) -> tf.Tensor:
        """Mean squared difference of the pooled features in standard deviations, plus the divergence of their classes."""
        aim = self._taught(photos, boxes, factors)
        got = _pooled(self.student(seen(photos, boxes, factors, side), training=training))
        difference = tf.reduce_mean(tf.square((got - aim) / self.spread))
        aimed, gotten = (tf.nn.log_softmax(features @ self.kernel + self.bias) for features in (aim, got))
        return difference + tf.reduce_mean(tf.reduce_sum(tf.exp(aimed) * (aimed - gotten), axis=-1))

    @tf.function
    def step(self, photos: tf.Tensor, boxes: tf.Tensor, factors: tf.Tensor, side: int) -> tf.Tensor:
        """Train the student on a batch; its loss before that."""
        variables = self.student.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss(photos, boxes, factors, side, training=True)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def measure(self) -> float:
        """The loss of B0 as it will be used, with swish, on whole photos, mean over the sides."""
        self.share.assign(0.0)
        batches = [(batch, side) for batch in self._whole() for side in self.settings.sides]
        losses = [float(self.loss(*batch, side, training=False)) for batch, side in batches]
        return float(np.average(losses, weights=[len(batch[0]) for batch, _ in batches]))


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
            chosen = photos[order[number * batch :][:batch]]
            draws = windows(random, batch, photos.shape[1]), colours(random, batch)
            losses.append(float(pair.step(chosen, *draws, settings.sides[done % len(settings.sides)])))
            if not math.isfinite(losses[-1]):
                raise Refused(f"epoch {epoch + 1}, step {number + 1}: the loss is {losses[-1]}")
            if (number + 1) % _LINE_EVERY == 0 or number + 1 == steps:
                recent = np.mean(losses[-_LINE_EVERY:])
                print(
                    f"epoch {epoch + 1} of {settings.epochs}, step {number + 1} of {steps}: loss {recent:.4f}",
                    flush=True,
                )
        means.append(float(np.mean(losses)))
    return means


def _pooled(maps: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(maps, axis=(1, 2))
