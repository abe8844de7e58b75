"""Steps of a small model on made-up batches, by this process or, with TF_CONFIG, by one of several workers."""

import json
import sys
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from catdog.data.augment import DRAWS
from catdog.data.cache import open_cache
from catdog.data.order import Share, replica_rows
from catdog.data.pipeline import evaluation_dataset, surfaced
from catdog.data.records import Records
from catdog.data.shards import load_manifest
from catdog.model import make_stateless, unfreeze
from catdog.recipe import Recipe, load_recipe
from catdog.storage import open_bucket
from catdog.training.state import TrainingState
from catdog.training.step import Batch, StepSettings, make_predict_step, make_train_step
from catdog.training.strategy import distributed
from catdog.training.validation import make_validation
from catdog.training.worker_group import make_group

STEPS = 6
SPOILT_WEIGHTS: Mapping[int, Mapping[int, float]] = {1: {15: 1e6}, 3: {0: np.inf}}
"""By step, the weight of a row: of the last worker so large that half precision overflows, and of the first infinite."""


def trace(recipe: Recipe, spoilt: bool = False) -> dict[str, np.ndarray]:
    """The state before the first step and after each, what each step told, and the losses of validation, by name."""
    strategy, scratch = make_group("auto").strategy, recipe.model.from_scratch
    with strategy.scope():
        model = small_model(recipe)
        unfreeze(model, "all", batch_norm=scratch)
        if scratch:
            make_stateless(model, synchronize=strategy.num_replicas_in_sync > 1)
        state = TrainingState(model, recipe, recipe.run.precision)
        state.start_phase()
    train_step = make_train_step(strategy, state, StepSettings(recipe, scratch))
    data = open_bucket(recipe.data.uri)
    found, told = [state.snapshot()], []
    with open_cache(data, {}, recipe.cache) as cache:
        records, side, rows = (
            Records(load_manifest(data).split("val"), cache),
            recipe.data.side,
            recipe.data.global_batch,
        )

        def whole() -> Iterator[Batch]:
            return surfaced(
                distributed(strategy, lambda share: evaluation_dataset(records, side, rows, share)), records
            )

        validation = make_validation(records.labels, whole, make_predict_step(strategy, model))
        for step, batch in enumerate(distributed(strategy, lambda share: dataset(recipe, share, spoilt))):
            outcome = train_step(batch, 1e-2, step)
            found.append(state.snapshot())
            with state.averaged():
                metrics = validation(lambda: False)
            told.append({name: value.numpy() for name, value in outcome.items()} | {"val loss": metrics["loss"]})
    return {name: np.stack([one[name] for one in several]) for several in (found, told) for name in several[0]}


def small_model(recipe: Recipe) -> keras.Sequential:
    """The layers that the step expects, on a backbone of three convolutions with BatchNorm."""
    keras.utils.set_random_seed(3)
    layers, precision = keras.layers, recipe.run.precision
    x = inputs = keras.Input((recipe.data.side, recipe.data.side, 3))
    x = layers.Rescaling(1 / 255, dtype=precision)(x)
    for filters in (4, 6, 8):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False, dtype=precision)(x)
        x = layers.BatchNormalization(dtype=precision)(x)
        x = layers.Activation("swish", dtype=precision)(x)
    return keras.Sequential(
        [
            keras.Model(inputs, x),
            layers.GlobalAveragePooling2D(dtype=precision),
            layers.Dense(recipe.model.units, activation="relu", dtype=precision),
            layers.Dropout(recipe.model.dropout, dtype=precision),
            layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )


def dataset(recipe: Recipe, share: Share, spoilt: bool) -> tf.data.Dataset:
    """A worker's rows of the batches that are the same for any number of workers; dogs are the brighter pictures."""
    batch, side = recipe.data.global_batch, recipe.data.side
    table = replica_rows(recipe.data.streams, batch, share)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (STEPS, batch)).astype(np.float32)
    image = rng.integers(0, 128, (STEPS, batch, side, side, 3)) + 100 * label[..., None, None, None]
    weight = np.ones((STEPS, batch), np.float32)
    for step, weights in SPOILT_WEIGHTS.items() if spoilt else ():
        for row, value in weights.items():
            weight[step, row] = value
    whole = {
        "image": image.astype(np.uint8),
        "label": label,
        "weight": weight,
        "draws": rng.random((STEPS, batch, DRAWS), np.float32),
        "row": np.tile(np.arange(batch, dtype=np.int32), (STEPS, 1)),
    }
    # One element a step and replica, replicas in turn.
    return tf.data.Dataset.from_tensor_slices({name: array[:, table] for name, array in whole.items()}).unbatch()


if __name__ == "__main__":
    path, spoilt, output = sys.argv[1:]
    np.savez(output, **trace(load_recipe(path), json.loads(spoilt)))
