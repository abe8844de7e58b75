"""The `tf.distribute` strategy for the machine at hand, and whether XLA compiles its steps."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from catdog.data.order import Share
from catdog.errors import CallerError
from catdog.recipe import Recipe


def make_strategy(name: str) -> tf.distribute.Strategy:
    """`auto`: one device as it is, several GPUs mirrored; `cpu:N`: N logical CPU devices, no GPU.

    GPUs that NCCL does not reach add as tf.add_n does, so that three or more do not repeat to the bit.

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
    # By default it adds as tf.add_n does: more than two in the order in which their memory happens to be free.
    reduce = tf.distribute.ReductionToOneDevice(accumulation_fn=lambda values: tf.reduce_sum(tf.stack(values), axis=0))
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)], cross_device_ops=reduce)


def allow_memory_growth() -> None:
    """Let TensorFlow take the memory of GPUs as it needs it, not all of it at its start."""
    for gpu in tf.config.get_visible_devices("GPU"):
        # Refused once TensorFlow runs in this process; then what was set before holds.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def compiles(recipe: Recipe, gpus: int) -> bool:
    """Whether XLA compiles a step of a process with so many GPUs. Each replica compiles its own, so `auto` leaves several as
    they are."""
    if recipe.run.xla == "auto":
        return gpus == 1 and not recipe.model.from_scratch
    return recipe.run.xla == "on"


def distributed(strategy: tf.distribute.Strategy, dataset: Callable[[Share], tf.data.Dataset]) -> Iterable[Any]:
    """The strategy's batches, of which each worker makes its own share."""

    def of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        return dataset(Share(context.input_pipeline_id, workers, context.num_replicas_in_sync // workers))

    return strategy.distribute_datasets_from_function(of)
