"""Augmentation: stateless, decided by numbers drawn for (seed, epoch, example) and nothing else."""

import math

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from catdog.recipe import Augment

CROP_AREA, CROP_ASPECT, CROP_X, CROP_Y, FLIP, ROTATION, BRIGHTNESS, CONTRAST, SATURATION, MIXUP = range(10)
DRAWS = 10

_LUMA = (0.299, 0.587, 0.114)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draws(seed: int, epoch: int, example: np.ndarray, alpha: float = 0.0) -> np.ndarray:
    """Numbers in [0, 1), float32 [n, DRAWS], for the int64 [n] indices of examples: uniform, but with an `alpha` above 0
    for column MIXUP, whose numbers in [0, 1] are of the distribution Beta(alpha, alpha).

    Counter-based: the key goes through SplitMix64 (Steele, Lea and Flood, 2014) part by part, and each number is one of
    the outputs of SplitMix64 from the state so reached.
    """
    state = _mix(np.array([seed], np.uint64) + _GOLDEN)
    for part in (np.uint64(epoch), example.astype(np.uint64)):
        state = _mix((state ^ part) + _GOLDEN)
    words = _mix(state[:, None] + _GOLDEN * np.arange(1, DRAWS + 1, dtype=np.uint64))
    numbers = (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    if alpha > 0:
        numbers[:, MIXUP] = betaincinv(alpha, alpha, numbers[:, MIXUP].astype(np.float64))
    return numbers


def crop_window(height: tf.Tensor, width: tf.Tensor, draws: tf.Tensor, min_area: float) -> tf.Tensor:
    """Top, left, height and width, int32 [4], of a crop with a random part of the area, at least `min_area` in 0..1, and
    a random place in a picture of so many pixels; `draws` is float32 [DRAWS] in [0, 1).

    Its aspect is jittered by up to 3/4 or 4/3 around the picture's own, not around a square: evaluation squashes the
    whole picture to a square, so crops are squashed alike.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = min_area + (1.0 - min_area) * draws[CROP_AREA]
    # No aspect can make a side longer than the picture's.
    widest = tf.minimum(tf.math.log(4.0 / 3.0), -tf.math.log(area))
    aspect = tf.exp((2.0 * draws[CROP_ASPECT] - 1.0) * widest)
    tall = tf.clip_by_value(tf.round(height * tf.sqrt(area / aspect)), 1.0, height)
    wide = tf.clip_by_value(tf.round(width * tf.sqrt(area * aspect)), 1.0, width)
    top = tf.floor(draws[CROP_Y] * (height - tall + 1.0))
    left = tf.floor(draws[CROP_X] * (width - wide + 1.0))
    return tf.cast(tf.stack([top, left, tall, wide]), tf.int32)


def augment(images: tf.Tensor, draws: tf.Tensor, settings: Augment) -> tf.Tensor:
    """Flip, rotation, brightness, contrast and saturation of images [b, side, side, 3] in 0..255; float32, same shape.

    `draws` is float32 [b, DRAWS] in [0, 1). A row depends on no other row.
    """
    result = tf.cast(images, tf.float32)
    if settings.flip or settings.rotation > 0:
        result = _flip_and_rotate(result, draws, settings)

    if settings.brightness > 0 or settings.contrast > 0 or settings.saturation > 0:
        result = _colour(result, draws, settings)
    return tf.clip_by_value(result, 0.0, 255.0)


def mixup(images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor, rows_per_stream: int) -> tuple[tf.Tensor, tf.Tensor]:
    """MixUp (Zhang et al., 2018) of each row with the next row of its stream.

    Rows of one stream lie together, `rows_per_stream` of them, so partners are the same for any number of replicas.
    Column MIXUP of the draws holds the share that a row keeps.
    """
    kept = draws[:, MIXUP]

    def partner(tensor: tf.Tensor) -> tf.Tensor:
        streams = tf.reshape(tensor, tf.concat([[-1, rows_per_stream], tf.shape(tensor)[1:]], 0))
        return tf.reshape(tf.roll(streams, -1, axis=1), tf.shape(tensor))

    share = kept[:, None, None, None]
    return images * share + partner(images) * (1.0 - share), labels * kept + partner(labels) * (1.0 - kept)


def _flip_and_rotate(images: tf.Tensor, draws: tf.Tensor, settings: Augment) -> tf.Tensor:
    """Both as one affine map of output pixels to input pixels about the centre, so that pixels are read once."""
    side = images.shape[1]
    centre = (side - 1) / 2.0
    mirror = tf.where(draws[:, FLIP] < 0.5, -1.0, 1.0) if settings.flip else tf.ones_like(draws[:, FLIP])
    angle = (2.0 * draws[:, ROTATION] - 1.0) * (settings.rotation * math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    a, b, c, d = mirror * cos, -mirror * sin, sin, cos
    zero = tf.zeros_like(a)
    transforms = tf.stack([a, b, centre - centre * (a + b), c, d, centre - centre * (c + d), zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.constant([side, side]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _colour(images: tf.Tensor, draws: tf.Tensor, settings: Augment) -> tf.Tensor:
    """Brightness, contrast about the picture's mean and saturation about the luma, as one affine map of its RGB."""

    def change(column: int, largest: float) -> tf.Tensor:
        return (2.0 * draws[:, column] - 1.0) * largest

    brightness = 255.0 * change(BRIGHTNESS, settings.brightness)
    contrast = 1.0 + change(CONTRAST, settings.contrast)
    saturation = 1.0 + change(SATURATION, settings.saturation)[:, None, None]
    grey = tf.tile(tf.constant(_LUMA)[:, None], [1, 3])
    matrix = contrast[:, None, None] * (saturation * tf.eye(3) + (1.0 - saturation) * grey)
    shift = brightness + (1.0 - contrast) * tf.reduce_mean(images, axis=(1, 2, 3))
    pixels = tf.reshape(images, [-1, images.shape[1] * images.shape[2], 3])
    return tf.reshape(tf.matmul(pixels, matrix) + shift[:, None, None], tf.shape(images))


def _mix(word: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, on uint64 arrays: each bit of a word changes half the bits of the result."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
