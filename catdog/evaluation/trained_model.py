"""The model that a run has left, opened with plain Keras."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from catdog.errors import RunError, one_line
from catdog.recipe import Recipe
from catdog.runs.folder import MODEL, finished_recipe
from catdog.storage import Bucket

BATCH = 64  # images at once: enough to fill a device, little enough for a laptop at any side


@dataclass(frozen=True)
class Trained:
    """A finished run's model with the recipe that made it."""

    recipe: Recipe
    forward: Callable[[Any], tf.Tensor]

    def probabilities(self, images: NDArray[np.uint8] | tf.Tensor) -> NDArray[np.float64]:
        """Probability of "dog", float64 [b] in 0..1, of RGB images uint8 [b, side, side, 3].

        Raises RunError when the model gives something that is no probability, and where there is no memory for them.
        """
        try:
            given = self.forward(images).numpy().astype(np.float64)
        except tf.errors.OpError as error:
            if not lacks_memory(error):
                raise
            side = self.recipe.data.side
            raise RunError(
                f"no memory is left for {len(images)} pictures of {side} x {side} px: end what else runs on this device"
            ) from None
        if not ((given >= 0) & (given <= 1)).all():
            raise RunError("model.keras gives values that are no probabilities: its weights are broken")
        return given


def lacks_memory(error: tf.errors.OpError) -> bool:
    """Whether this is how TensorFlow says that a device has no memory left."""
    # The second is what a GPU's copy from the host ends in.
    return isinstance(error, tf.errors.ResourceExhaustedError) or "Dst tensor is not initialized" in error.message


def load_trained(run: Bucket) -> Trained:
    """Raises CallerError for no run or an unfinished one, and RunError when its model can't be opened."""
    recipe = finished_recipe(run)
    with run.reading(MODEL) as path:
        try:
            if not zipfile.is_zipfile(path):  # which Keras would tell as not there
                raise ValueError("it is no whole .keras file, which is a zip file")
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # on a broken file Keras, zipfile and HDF5 may raise anything
            raise RunError(f"{run.uri}/{MODEL}: can't be opened: {one_line(error)[:300]}") from error
    return trained(recipe, model, f"{run.uri}/{MODEL}")


def trained(recipe: Recipe, model: keras.Model, place: str) -> Trained:
    """The recipe with its model, which lies at this place. Raises RunError for one that is none of the recipe's."""
    side = recipe.data.side

    @tf.function(input_signature=[tf.TensorSpec((None, side, side, 3), tf.uint8)], autograph=False)
    def forward(images: tf.Tensor) -> tf.Tensor:
        given = model(tf.cast(images, tf.float32), training=False)
        if given.shape[1:].as_list() != [1]:
            raise ValueError(f"it gives {given.shape[1:].as_list()} numbers for a picture")
        return tf.reshape(given, [-1])

    try:
        forward.get_concrete_function()
    except Exception as error:  # what somebody else's model does not take is told in as many ways
        raise RunError(
            f"{place}: is not a model of this run: it must take pictures of {side} x {side} x 3 and give one"
            f" probability for each: {one_line(error)[:300]}"
        ) from error
    return Trained(recipe, forward)
