"""The precision in which a recipe trains fastest on the device at hand."""

import math

import tensorflow as tf

from catdog.evaluation.trained_model import lacks_memory
from catdog.recipe import Recipe, trains_most
from catdog.training.timing import TimedStep

_GAIN = 0.9
"""Of the time of a simpler precision: what a less simple one may take to be chosen."""


def fastest_precision(recipe: Recipe, rows: int) -> str:
    """The Keras dtype policy that trains fastest on the first device: float32 on a CPU, on a GPU what is measured.

    Times the recipe's own step, of the phase that trains most, on `rows` made-up pictures, and without XLA, which would
    take minutes to compile it in each. A narrow type is chosen only if it is a tenth faster than float32, and float16,
    which needs a loss scale, only if it is that much faster than bfloat16, too.
    """
    gpus = tf.config.get_visible_devices("GPU")
    # On a CPU with avx512_bf16 a forward pass is faster in bfloat16, but training at 96 px took 1.4 times as long.
    major, _ = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0)) if gpus else (0, 0)
    if major < 7:
        return "float32"  # before Volta no narrow type is fast
    narrow = ["mixed_bfloat16"] if major >= 8 else []  # which came with Ampere
    if not recipe.model.from_scratch:  # where an overflow would stay in BatchNorm's statistics
        narrow.append("mixed_float16")
    best, least = "float32", seconds_a_step(recipe, "float32", rows)
    for policy in narrow:
        if (seconds := seconds_a_step(recipe, policy, rows)) < _GAIN * least:
            best, least = policy, seconds
    return best


def seconds_a_step(recipe: Recipe, policy: str, rows: int) -> float:
    """Seconds of a training step of `rows` pictures under a policy, the least of five; infinite where memory lacks."""
    try:
        _, least = TimedStep(recipe, trains_most(recipe), policy).seconds(rows)
        return least
    except tf.errors.OpError as error:
        if lacks_memory(error):
            return math.inf
        raise
