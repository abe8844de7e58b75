"""What a run leaves for others to use: its best weights as a model in the formats of other programs."""

from collections.abc import Sequence

import keras
import numpy as np

from catdog.model import build
from catdog.recipe import Recipe
from catdog.runs.folder import MODEL
from catdog.storage import Bucket


def exportable(recipe: Recipe, weights: Sequence[np.ndarray], trained: keras.Sequential | None) -> keras.Sequential:
    """The recipe's model in float32, with nothing in it that is ours, and with these weights.

    It is the one that was trained, where that is given and is such a one. Raises ValueError for weights of another model.
    """
    if trained is None or recipe.run.precision != "float32" or recipe.model.from_scratch:
        trained = build(recipe.model, recipe.data.side)
    trained.set_weights(list(weights))
    trained.trainable = True  # as far as those who open it are concerned
    return trained


def export_keras(run: Bucket, model: keras.Sequential) -> None:
    """Write model.keras."""
    with run.writing(MODEL) as path:
        model.save(path)
