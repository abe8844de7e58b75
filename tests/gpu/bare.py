"""Images a second that EfficientNetB0 is trained with on one batch in memory: by a bare compiled step, and by Keras' `fit`.

Usage: python -m tests.gpu.bare SIDE BATCH STEPS POLICY; prints them as JSON, by what is trained: `frozen` the head, `all`.
"""

import json
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from catdog.model import build, unfreeze
from catdog.recipe import Model
from catdog.training.strategy import allow_memory_growth


def main() -> None:
    side, batch, steps = map(int, sys.argv[1:4])
    allow_memory_growth()
    random = np.random.default_rng(0)
    images = tf.constant(random.integers(0, 256, (batch, side, side, 3)), tf.float32)
    labels = tf.constant(np.arange(batch) % 2, tf.float32)[:, None]
    found = {}
    for name, part in (("frozen", "none"), ("all", "all")):
        speeds = {}
        for way, timed in (("step", step_seconds), ("fit", fit_seconds)):
            model = build(Model(), side, precision=sys.argv[4])
            unfreeze(model, part)
            speeds[way] = batch / timed(model, images, labels, steps)
        found[name] = speeds
    print(json.dumps(found))


def bare_step(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> Callable[[], tf.Tensor]:
    """A compiled step that trains what of the model is trainable, and gives the loss."""
    optimizer = keras.optimizers.Adam(1e-5)
    optimizer.build(model.trainable_variables)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))

    @tf.function(jit_compile=on_gpu, autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, model(images, training=False)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step  # type: ignore[no-any-return]


def step_seconds(model: keras.Model, images: tf.Tensor, labels: tf.Tensor, steps: int) -> float:
    step = bare_step(model, images, labels)

    def run(count: int) -> None:
        for _ in range(count):
            loss = step()
        loss.numpy()

    return _seconds(run, steps)


def fit_seconds(model: keras.Model, images: tf.Tensor, labels: tf.Tensor, steps: int) -> float:
    model.compile(keras.optimizers.Adam(1e-5), keras.losses.BinaryCrossentropy())
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    return _seconds(lambda count: model.fit(batches, steps_per_epoch=count, verbose=0), steps)


def _seconds(run: Callable[[int], object], steps: int) -> float:
    """Of one of so many steps, after one that is traced."""
    run(1)
    began = time.perf_counter()
    run(steps)
    return (time.perf_counter() - began) / steps


if __name__ == "__main__":
    main()
