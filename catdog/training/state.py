"""Everything that decides the next step, as variables on the devices and as arrays for a checkpoint."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from catdog.recipe import Recipe

INITIAL_SCALE = 2.0**15


class TrainingState:
    """Weights, their moving average, the optimizer's slots and the loss scale. Make one in the strategy's scope."""

    def __init__(self, model: keras.Sequential, recipe: Recipe, precision: str) -> None:
        self.model = model
        self.settings = recipe.optimizer
        self.optimizer: keras.Optimizer | None = None
        self.average = [tf.Variable(w.value, trainable=False) for w in model.weights] if recipe.optimizer.ema else []
        scaled = precision == "mixed_float16"
        self.loss_scale = tf.Variable(INITIAL_SCALE, trainable=False) if scaled else None
        self.good_steps = tf.Variable(0, dtype=tf.int64, trainable=False) if scaled else None

    def start_phase(self) -> None:
        """A fresh optimizer for what of the model is trainable now; call it in the strategy's scope."""
        kind = keras.optimizers.AdamW if self.settings.name == "adamw" else keras.optimizers.Adam
        decay = {"weight_decay": self.settings.weight_decay} if self.settings.name == "adamw" else {}
        self.optimizer = kind(learning_rate=0.0, **decay)
        # Scales and offsets are not decayed, as usual for normalised networks.
        if self.settings.name == "adamw":
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(self.model.trainable_variables)
        # The step hands over gradients that are reduced already; Keras would sum them once more.
        self.optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model has the moving average of its weights, where one is kept."""
        own = [weight.numpy() for weight in self.model.weights] if self.average else []
        for weight, mean in zip(self.model.weights, self.average, strict=False):
            weight.assign(mean)
        try:
            yield
        finally:
            for weight, value in zip(self.model.weights, own, strict=False):
                weight.assign(value)

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of all variables, by names that stay the same from run to run."""
        return {name: np.asarray(variable.numpy()) for name, variable in self._variables().items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Put back a snapshot that was taken in the phase that is under way; raises ValueError for one of another model."""
        for name, variable in self._variables().items():
            _require(arrays, name, tuple(variable.shape), variable.dtype.as_numpy_dtype)
            variable.assign(arrays[name])

    def _variables(self) -> dict[str, tf.Variable]:
        named = {f"model/{index:04d}": weight.value for index, weight in enumerate(self.model.weights)}
        named |= {f"average/{index:04d}": weight for index, weight in enumerate(self.average)}
        if self.optimizer is not None:
            named |= {f"optimizer/{index:04d}": slot.value for index, slot in enumerate(self.optimizer.variables)}
        if self.loss_scale is not None:
            named |= {"loss_scale": self.loss_scale, "good_steps": self.good_steps}
        return named


def _require(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: type) -> None:
    found = arrays.get(name)
    if found is None or (found.shape, found.dtype) != (shape, dtype):
        told = "is missing" if found is None else f"has shape {found.shape} of {found.dtype}"
        raise ValueError(f"{name} {told}: the recipe's model has {shape} of {np.dtype(dtype)}")


def exported_weights(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The weights to validate and to keep out of a snapshot: the moving average where there is one."""
    prefix = "average/" if "average/0000" in arrays else "model/"
    return [arrays[name] for name in sorted(arrays) if name.startswith(prefix)]
