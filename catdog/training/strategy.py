"""The `tf.distribute` strategy and the precision for the machine at hand."""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from catdog.data.order import Share
from catdog.errors import CallerError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """`auto`: one device as it is, several GPUs mirrored; `cpu:N`: N logical CPU devices, no GPU.

    Raises CallerError when TensorFlow already runs with fewer logical CPU devices than asked for.
    """
    if name == "auto":
        allow_memory_growth()
        several = len(tf.config.get_visible_devices("GPU")) > 1
        return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
    count = int(name.removeprefix("cpu:"))
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < count or tf.config.get_visible_devices("GPU"):
            raise CallerError(
                f"run.strategy = {name!r}: TensorFlow already runs in this process with {there} CPU devices"
            ) from None
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(count)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def allow_memory_growth() -> None:
    """Let TensorFlow take the memory of GPUs as it needs it, not all of it at its start."""
    for gpu in tf.config.get_visible_devices("GPU"):
        # Refused once TensorFlow runs in this process; then what was set before holds.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def distributed(strategy: tf.distribute.Strategy, dataset: Callable[[Share], tf.data.Dataset]) -> Iterable[Any]:
    """The strategy's batches, of which each worker makes its own share."""

    def of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        return dataset(Share(context.input_pipeline_id, workers, context.num_replicas_in_sync // workers))

    return strategy.distribute_datasets_from_function(of)


def fastest_precision() -> str:
    """The Keras dtype policy that trains fastest on the first device: float32 on a CPU, on a GPU what is measured.

    Times forward and backward passes of one inverted-bottleneck block (Tan and Le, 2019), the piece that EfficientNet
    is made of. float32 is kept unless the narrow type that the GPU is made for is at least a tenth faster.
    """
    gpus = tf.config.get_visible_devices("GPU")
    # On a CPU with avx512_bf16 a forward pass is faster in bfloat16, but training at 96 px took 1.4 times as long.
    major, _ = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0)) if gpus else (0, 0)
    if major < 7:
        return "float32"  # before Volta no narrow type is fast
    narrow = "mixed_bfloat16" if major >= 8 else "mixed_float16"  # Ampere brought bfloat16
    return narrow if _seconds_a_step(narrow) < 0.9 * _seconds_a_step("float32") else "float32"


def _seconds_a_step(policy: str) -> float:
    layers = keras.layers
    block = keras.Sequential(
        [
            keras.Input((24, 24, 24)),
            layers.Conv2D(144, 1, activation="swish", dtype=policy),
            layers.DepthwiseConv2D(3, padding="same", activation="swish", dtype=policy),
            layers.Conv2D(24, 1, dtype=policy),
        ]
    )
    images = tf.random.stateless_normal((32, 24, 24, 24), seed=(0, 0))

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(block(images), tf.float32)))
        return tape.gradient(loss, block.trainable_variables)

    def run() -> float:
        start = time.perf_counter()
        step()[0].numpy()
        return time.perf_counter() - start

    run()
    return min(run() for _ in range(5))
