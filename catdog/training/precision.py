"""The precision in which a recipe trains fastest on the device at hand."""

import math
import time

import numpy as np
import tensorflow as tf

from catdog.data.augment import DRAWS
from catdog.evaluation.trained_model import lacks_memory
from catdog.model import build, make_stateless, unfreeze
from catdog.recipe import Recipe
from catdog.training.state import TrainingState
from catdog.training.step import Batch, StepSettings, TakeStep, make_train_step

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
        step, batch = _step(recipe, policy), _batch(recipe, rows)

        def timed(number: int) -> float:
            began = time.perf_counter()
            step(batch, 0.0, number, False)["loss"].numpy()
            return time.perf_counter() - began

        timed(0)
        return min(timed(number) for number in range(1, 6))
    except tf.errors.OpError as error:
        if lacks_memory(error):
            return math.inf
        raise


def _step(recipe: Recipe, policy: str) -> TakeStep:
    """That of the phase that trains most."""
    model, scratch = build(recipe.model, recipe.data.side, precision=policy), recipe.model.from_scratch
    sizes = {"none": 0.0, "all": math.inf}
    most = max(recipe.phases, key=lambda phase: sizes.get(str(phase.unfreeze), phase.unfreeze))
    unfreeze(model, most.unfreeze, batch_norm=scratch)
    if scratch:
        make_stateless(model, synchronize=False)
    state = TrainingState(model, recipe, policy)
    state.start_phase()
    return make_train_step(tf.distribute.get_strategy(), state, StepSettings(recipe, scratch))


def _batch(recipe: Recipe, rows: int) -> Batch:
    random, side = np.random.default_rng(0), recipe.data.side
    return {
        "image": tf.constant(random.integers(0, 256, (rows, side, side, 3), np.uint8)),
        "draws": tf.constant(random.random((rows, DRAWS), np.float32)),
        "label": tf.constant(np.arange(rows) % 2, tf.float32),
        "weight": tf.ones(rows),
        "row": tf.range(rows),
    }
