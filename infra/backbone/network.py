"""Keras' EfficientNetB0 with other activations, and its weights in a file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import keras
import numpy as np
import tensorflow as tf

from infra.backbone.mapping import INPUT_MEAN, INPUT_VARIANCE
from infra.folder_lock import Refused

SIDES = 32
"""Every side is a multiple of it, so that padding is the same at each."""

_GZIP_FROM = 1000  # numbers; fewer take more room compressed


def b0(activation: Callable[[tf.Tensor], tf.Tensor]) -> keras.Model:
    """EfficientNetB0 without top, at drawn weights, for RGB float [batch, side, side, 3] in 0..255, normalised as Lite0's.

    `activation` takes the place of swish, but for that within the squeeze-excite gates. There is no stochastic depth.
    """
    model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(None, None, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = activation
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign(np.full(3, INPUT_MEAN))
            layer.adapt_variance.assign(np.full(3, INPUT_VARIANCE))
            layer.finalize_state()
    return model


def shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Of the weights by "layer/variable", but for those of the Normalization."""
    return {path: tuple(variable.shape) for path, variable in _variables(model).items()}


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    variables = _variables(model)
    for path, value in weights.items():
        variables[path].assign(value)


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.Normalization)]
    return {variable.path: variable for layer in layers for variable in layer.weights}


def write(model: keras.Model, path: Path) -> None:
    """Write the weights as float16, compressed, at once or not at all; a file that is there stays.

    Raises Refused where a weight is too large for float16, or the file cannot be written.
    """
    try:
        with TemporaryDirectory(prefix=".backbone-", dir=path.parent) as folder:
            whole, rounded = Path(folder, "float32.weights.h5"), Path(folder, "float16.weights.h5")
            model.save_weights(whole)
            with h5py.File(whole) as source, h5py.File(rounded, "w") as target:
                _round(source, target)
            os.link(rounded, path)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None


def _round(source: h5py.Group, target: h5py.Group) -> None:
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _round(item, target.create_group(name))
            continue
        value = item[()]
        if value.dtype == np.float32:
            value = value.astype(np.float16)
            if not np.isfinite(value).all():
                raise Refused(f"{item.name}: holds a number that is beyond float16")
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if value.size > _GZIP_FROM else {}
        target.create_dataset(name, data=value, **packed)
