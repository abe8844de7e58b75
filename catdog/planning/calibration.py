"""What this machine's first device and its cores take for a picture, measured on a recipe and its data set."""

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
from catdog.errors import CallerError
from catdog.planning.plan import PhaseSpeed, Speed
from catdog.recipe import Phase, Recipe, check_replicas, rows_of_a_replica, stores
from catdog.storage import Bucket
from catdog.training.frozen_part import FrozenPart
from catdog.training.precision import fastest_precision
from catdog.training.step import make_predict_step
from catdog.training.strategy import allow_memory_growth, compiles
from catdog.training.timing import TimedStep

_PICTURES, _BATCH = 1024, 16
"""That are decoded; so many that a few batches, which are ready before they are asked for, make no difference."""
_SECONDS = 1.0
"""For how long what takes less is repeated."""


def calibrate(recipe: Recipe, data: Bucket, manifest: Manifest, tell: Callable[[str], None]) -> Speed:
    """Takes some seconds a phase, most of them for tracing it; `tell` is given a line of what is measured next."""
    allow_memory_growth()
    gpu = bool(tf.config.get_visible_devices("GPU"))
    rows = rows_of_a_replica(recipe, 1)
    policy = fastest_precision(recipe, rows) if recipe.run.precision == "auto" else recipe.run.precision
    tell("measuring how fast pictures are decoded")
    decode = _decode(recipe, data, manifest)
    phases = []
    for phase in recipe.phases:
        tell(f"measuring phase {phase.name} in {policy}")
        phases.append(_phase(recipe, phase, policy, rows))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = kilobytes * (1 if sys.platform == "darwin" else 1024)
    return Speed(tuple(phases), decode, gpu, float(cores()), memory)


def _phase(recipe: Recipe, phase: Phase, policy: str, rows: int) -> PhaseSpeed:
    stored = stores(recipe, phase)
    step = TimedStep(recipe, phase, policy, stored=stored, xla=compiles(recipe))
    start, whole = step.seconds(rows)
    few = min(rows_of_a_replica(recipe, replicas) for replicas in (1, 2, 4) if _trainable(recipe, replicas))
    _, part = step.seconds(few)
    row = max(0.0, whole - part) / (rows - few) if rows > few else whole / rows
    strategy = tf.distribute.get_strategy()
    random, side, output = np.random.default_rng(0), recipe.data.side, 0
    if step.cut is not None:
        frozen = FrozenPart(strategy, 1, step.cut, recipe)
        rows, output = frozen.rows, 2 * int(np.prod(frozen.shape))
        draws = tf.constant(random.random((rows, DRAWS), np.float32))
        pass_through = lambda images: frozen.outputs(images, draws, varied=True)  # noqa: E731
    else:
        predict = make_predict_step(strategy, step.model)
        examples = tf.range(rows, dtype=tf.int64)
        pass_through = lambda images: predict({"image": images, "example": examples})[1].numpy()  # noqa: E731
    images = tf.constant(random.integers(0, 256, (rows, side, side, 3), np.uint8))
    forward = _fastest(lambda: pass_through(images)) / rows
    return PhaseSpeed(start, max(0.0, whole - rows_of_a_replica(recipe, 1) * row), row, forward, step.gradients, output)


def _trainable(recipe: Recipe, replicas: int) -> bool:
    try:
        check_replicas(recipe, replicas)
    except CallerError:
        return False
    return True


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
