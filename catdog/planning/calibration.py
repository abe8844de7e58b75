"""What this machine's first device and its cores take for a picture, measured on a recipe and its data set."""

import math
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from catdog.data.augment import DRAWS
from catdog.data.cache import open_cache
from catdog.data.pipeline import picture_dataset, surfaced
from catdog.data.process_pool import cores
from catdog.data.records import Records
from catdog.data.shards import Manifest, pinned
from catdog.errors import RunError
from catdog.evaluation.trained_model import lacks_memory
from catdog.planning.plan import PhaseSpeed, Speed
from catdog.recipe import Phase, Recipe, stores
from catdog.storage import Bucket
from catdog.training.devices import devices
from catdog.training.frozen_part import FrozenPart
from catdog.training.precision import fastest_precision
from catdog.training.step import make_predict_step
from catdog.training.strategy import allow_memory_growth
from catdog.training.timing import TimedStep

_PICTURES, _BATCH = 1024, 16
"""That are decoded; so many that a few batches, which are ready before they are asked for, make no difference."""
_ROWS = 16
"""Of the smaller of two steps that are timed; the larger has four times as many."""
_SECONDS = 1.0
"""For how long what takes less is repeated."""


def calibrate(
    recipe: Recipe, data: Bucket, manifest: Manifest, tell: Callable[[str], None], *, xla: bool = False
) -> Speed:
    """Takes some seconds a phase, most of them for tracing it; `tell` is given a line of what is measured next.

    Steps are compiled with `xla`. Raises RunError where the device has no memory for them.
    """
    allow_memory_growth()
    gpu = bool(tf.config.get_visible_devices("GPU"))
    try:
        tell("measuring how fast pictures are decoded")
        decode = _decode(recipe, data, manifest)
        few, many = _rows(recipe)
        policy = fastest_precision(recipe, many) if recipe.run.precision == "auto" else recipe.run.precision
        phases = []
        for phase in recipe.phases:
            tell(f"measuring phase {phase.name} in {policy}")
            phases.append(_phase(recipe, phase, policy, few, many, xla))
    except tf.errors.OpError as error:
        if not lacks_memory(error):
            raise
        side = recipe.data.side
        raise RunError(
            f"no memory is left on {devices(1)} for a step of {many} pictures of {side} x {side} px"
        ) from error
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = kilobytes * (1 if sys.platform == "darwin" else 1024)
    return Speed(tuple(phases), decode, gpu, float(cores()), memory)


def _rows(recipe: Recipe) -> tuple[int, int]:
    """Two sizes of a step, whose times tell what a row takes: parts of a global batch that can be cut as the recipe asks."""
    batch, mixes = recipe.data.global_batch, recipe.augment.mixup > 0
    unit = math.lcm(recipe.optimizer.accumulate, batch // recipe.data.streams if mixes else 1)
    few = min(unit * max(1, _ROWS // unit), batch)
    return few, max(few, few * min(4, batch // few))


def _phase(recipe: Recipe, phase: Phase, policy: str, few: int, many: int, xla: bool) -> PhaseSpeed:
    step = TimedStep(recipe, phase, policy, stored=stores(recipe, phase), xla=xla)
    first, whole = step.seconds(many)
    row = max(0.0, whole - step.seconds(few)[1]) / (many - few) if many > few else whole / many
    strategy = tf.distribute.get_strategy()
    random, side, output, rows = np.random.default_rng(0), recipe.data.side, 0, many
    if step.cut is not None:
        began = time.perf_counter()
        frozen = FrozenPart(strategy, 1, step.cut, recipe)
        first += time.perf_counter() - began
        rows, output = frozen.rows, 2 * int(np.prod(frozen.shape))
        draws = tf.constant(random.random((rows, DRAWS), np.float32))
        pass_through = lambda images: frozen.outputs(images, draws, varied=True)  # noqa: E731
    else:
        predict = make_predict_step(strategy, step.model)
        examples = tf.range(rows, dtype=tf.int64)
        pass_through = lambda images: predict({"image": images, "example": examples})[1].numpy()  # noqa: E731
    images = tf.constant(random.integers(0, 256, (rows, side, side, 3), np.uint8))
    forward = _fastest(lambda: pass_through(images)) / rows
    return PhaseSpeed(max(0.0, first - whole), max(0.0, whole - many * row), row, forward, step.gradients, output)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of a call, the least of some; the first is not looked at."""
    call()
    least, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
    return least


def _decode(recipe: Recipe, data: Bucket, manifest: Manifest) -> float:
    """Seconds of a core to read and decode a picture of the data set."""
    shards = manifest.split("train")[:1]
    with open_cache(data, pinned(data, shards), recipe.cache) as cache:
        records = Records(shards, cache)
        examples = np.resize(np.arange(shards[0].examples), _PICTURES)
        batches = surfaced(picture_dataset(records, examples, _BATCH, recipe, 0), records)
        next(batches)  # by when the pipeline stands
        began = time.perf_counter()
        rest = sum(1 for _ in batches)
        return (time.perf_counter() - began) * cores() / (rest * _BATCH)
