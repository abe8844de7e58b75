"""The classifier: an EfficientNet backbone and a small head, and what each phase trains of it."""

import hashlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import keras
import tensorflow as tf
from keras.src.backend.config import keras_home
from keras.src.random import seed_generator

from catdog.errors import CallerError, one_line
from catdog.recipe import Model

BUNDLED = Path(__file__).parent / "weights" / "efficientnetb0-lite0.float16.weights.h5"


def build(settings: Model, side: int, *, seed: int = 0, precision: str = "float32") -> keras.Sequential:
    """Backbone without top, global average pooling, Dense, Dropout and one sigmoid neuron in float32.

    The model takes RGB images, float [batch, side, side, 3] in 0..255, rescales them itself, and gives the
    probability of "dog", float32 [batch, 1]. `precision` is a Keras dtype policy. Raises CallerError where the
    weights can't be had or don't fit.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        with _seeds_from(Random(seed)):
            return keras.Sequential(
                [
                    _backbone(settings, side),
                    keras.layers.GlobalAveragePooling2D(),
                    keras.layers.Dense(settings.units, activation="relu"),
                    keras.layers.Dropout(settings.dropout),
                    keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
                ],
                name="catdog",
            )
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def _seeds_from(random: Random) -> Iterator[None]:
    """Keras draws an initializer's seed from Python's generator of all threads, in which Google's client draws as well."""
    shared = seed_generator.python_random
    seed_generator.python_random = random
    try:
        yield
    finally:
        seed_generator.python_random = shared


def unfreeze(model: keras.Sequential, part: str | int, *, batch_norm: bool = False) -> None:
    """Make the head and `part` of the backbone trainable: "none", "all", or the number of its last blocks.

    BatchNorm stays in inference mode with its scale and offset fixed, as Keras' guide on fine-tuning EfficientNet
    advises, unless `batch_norm` is set, as a training from scratch needs.
    Raises CallerError when the backbone has fewer blocks.
    """
    backbone = model.layers[0]
    backbone.trainable = part != "none"
    if part == "none":
        return
    reached = part == "all"
    first = None if isinstance(part, str) else _first_block(backbone, part)
    for layer in backbone.layers:
        reached = reached or _block(layer) == first
        layer.trainable = reached and (batch_norm or not isinstance(layer, keras.layers.BatchNormalization))


def make_stateless(model: keras.Sequential, *, synchronize: bool) -> None:
    """Ready a backbone for training from scratch: no stochastic depth (its draws would belong to a replica and could
    not be repeated after a restart), and BatchNorm moments of `moments`, over all replicas when `synchronize` is set."""
    for layer in model.layers[0].layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.BatchNormalization):
            assert callable(getattr(layer, "_moments", None)), "this Keras takes the moments of a batch otherwise"
            layer._moments = lambda inputs, mask: moments(inputs, synchronize)


def moments(inputs: tf.Tensor, synchronize: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel, float [C], of a batch, float [B, H, W, C]; of all replicas' if so wanted.

    The gradient comes back as one tensor. Keras' own comes as two, which with a third make a sum of three, and TensorFlow
    adds more than two in the order in which their memory happens to be free.
    """
    axes = [0, 1, 2]

    def over_all(values: list[tf.Tensor]) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values) if synchronize and context else values

    @tf.custom_gradient
    def of(x: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[..., tf.Tensor]]:
        own = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        total, count = over_all([tf.reduce_sum(x, axes), own])
        mean = total / count
        (squares,) = over_all([tf.reduce_sum(tf.math.squared_difference(x, mean), axes)])

        def gradient(of_mean: tf.Tensor, of_variance: tf.Tensor) -> tf.Tensor:
            of_mean, of_variance = over_all([of_mean, of_variance])
            return of_mean / count + (x - mean) * (2.0 * of_variance / count)

        return (mean, squares / count), gradient

    mean, variance = of(inputs)
    return mean, variance


def logits(
    model: keras.Sequential, images: tf.Tensor, *, dropout: tf.Tensor | None = None, batch_norm: bool = False
) -> tf.Tensor:
    """Log-odds of "dog", float32 [batch], of images float [batch, side, side, 3] in 0..255.

    `dropout` holds the factors, float32 [batch, units], of the hidden units. `batch_norm` makes BatchNorm use and
    update its statistics with this batch.
    """
    backbone, pool, *_ = model.layers
    return head_logits(model, pool(backbone(images, training=batch_norm)), dropout)


def head_logits(model: keras.Sequential, pooled: tf.Tensor, dropout: tf.Tensor | None = None) -> tf.Tensor:
    """Log-odds of "dog", float32 [batch], of the pooled features [batch, channels]; `dropout` as in `logits`."""
    *_, hidden, _, output = model.layers
    features = tf.cast(hidden(pooled), tf.float32)
    if dropout is not None:
        features *= dropout
    return tf.squeeze(tf.matmul(features, output.kernel) + output.bias, axis=-1)


def digest(weights: Iterable[keras.Variable]) -> str:
    """SHA-256 of the values of some weights, in hexadecimal."""
    found = hashlib.sha256()
    for weight in weights:
        found.update(weight.numpy().tobytes())
    return found.hexdigest()


class Cut:
    """A model in two where a phase that trains `part` of it has nothing to train below: "none", or a number of blocks.

    Both halves share the model's weights.
    """

    def __init__(self, model: keras.Sequential, part: str | int) -> None:
        backbone, pool, *_ = model.layers
        self._model = model
        self.name = "pool"
        """The layer whose outputs the upper half takes."""
        self.below = keras.Model(backbone.input, pool(backbone.output))
        """Images, float [batch, side, side, 3] in 0..255, to these outputs."""
        self._above: keras.Model | None = None
        if isinstance(part, int):
            first = _first_block(backbone, part)
            self.name = backbone.layers[[_block(layer) for layer in backbone.layers].index(first) - 1].name
            between = backbone.get_layer(self.name).output
            self.below, self._above = keras.Model(backbone.input, between), keras.Model(between, pool(backbone.output))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's outputs."""
        return tuple(self.below.output.shape[1:])

    def logits(self, outputs: tf.Tensor, *, dropout: tf.Tensor | None = None) -> tf.Tensor:
        """As the function of this name, of the outputs of the lower half."""
        outputs = tf.cast(outputs, self.below.compute_dtype)
        pooled = outputs if self._above is None else self._above(outputs, training=False)
        return head_logits(self._model, pooled, dropout)


def _first_block(backbone: keras.Model, part: int) -> str:
    """The first of so many last blocks."""
    blocks = list(dict.fromkeys(name for layer in backbone.layers if (name := _block(layer))))
    if part > len(blocks):
        raise CallerError(
            f"phases.unfreeze = {part}: {backbone.name} has {len(blocks)} blocks; give at most that, or 'all'"
        )
    return blocks[-part]


def _block(layer: keras.Layer) -> str:
    """Name of the block that a backbone's layer belongs to, such as "block7a"; empty outside of all blocks."""
    match = re.match(r"block\d+[a-z]", layer.name)
    return match.group() if match else ""


def _backbone(settings: Model, side: int) -> keras.Model:
    constructor = getattr(keras.applications, settings.backbone)
    shape = (side, side, 3)
    if settings.weights == "imagenet":
        # Only this spelling inserts the rescaling that the official weights were trained with.
        return _imagenet(settings.backbone, shape)
    backbone = constructor(include_top=False, weights=None, input_shape=shape)
    if settings.weights != "none":
        _load(backbone, settings)
    return backbone


def require_weights(settings: Model) -> None:
    """Raises CallerError where the weights are to come from a file that is not there; that of 'imagenet' is not looked for."""
    if settings.weights not in ("imagenet", "bundled", "none") and not Path(settings.weights).is_file():
        raise CallerError(
            f"model.weights = {settings.weights!r}: no such file; 'imagenet', 'bundled' and 'none' are the names"
        )


def _load(backbone: keras.Model, settings: Model) -> None:
    require_weights(settings)
    path = BUNDLED if settings.weights == "bundled" else Path(settings.weights)
    file, md5 = _official(settings.backbone)
    if path.name == file or hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5:
        raise CallerError(
            f"model.weights = {settings.weights!r}: this is Keras' ImageNet file, which needs another preprocessing;"
            f" put it at {_keras_models() / file} and set model.weights = 'imagenet'"
        )
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that the file does not have, and leaves them untrained.
            warnings.simplefilter("error", UserWarning)
            backbone.load_weights(path)
    except OSError as error:
        raise CallerError(f"model.weights = {settings.weights!r}: cannot be opened: {one_line(error)[:200]}") from None
    except Exception as error:  # on a broken file HDF5 may raise anything
        raise CallerError(
            f"model.weights = {settings.weights!r}: does not fit {settings.backbone}: {one_line(error)[:200]}"
        ) from None


def _imagenet(name: str, shape: tuple[int, int, int]) -> keras.Model:
    try:
        return getattr(keras.applications, name)(include_top=False, weights="imagenet", input_shape=shape)
    except Exception as error:
        # Keras' downloader raises a bare Exception; anything else is not about the download.
        if type(error) is not Exception and not isinstance(error, OSError | ValueError):
            raise
        file, md5 = _official(name)
        raise CallerError(
            f"model.weights = 'imagenet': {one_line(error)};"
            f" without a network, put {file} (md5 {md5}) at {_keras_models() / file}"
        ) from None


def _official(name: str) -> tuple[str, str]:
    """File name and md5 of Keras' ImageNet weights without top."""
    second = name.startswith("EfficientNetV2")
    module = importlib.import_module(f"keras.src.applications.efficientnet{'_v2' if second else ''}")
    version = name.removeprefix("EfficientNetV2" if second else "EfficientNet").lower()
    key = f"-{version}" if second and version in ("s", "m", "l") else version
    stem = f"efficientnetv2-{version}" if second else f"efficientnet{version}"
    return f"{stem}_notop.h5", module.WEIGHTS_HASHES[key][1]


def _keras_models() -> Path:
    return Path(keras_home()) / "models"
