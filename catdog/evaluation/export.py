"""What a run leaves for others to use: its best weights as a model in the formats of other programs."""

from collections.abc import Sequence

import numpy as np

from catdog.model import build
from catdog.recipe import Recipe
from catdog.runs.folder import MODEL
from catdog.storage import Bucket


def export_keras(run: Bucket, recipe: Recipe, weights: Sequence[np.ndarray]) -> None:
    """Write model.keras, in float32 and with nothing in it that is ours, out of the weights of the recipe's model."""
    model = build(recipe.model, recipe.data.side)
    model.set_weights(list(weights))
    with run.writing(MODEL) as path:
        model.save(path)
