"""Loss and accuracy on the val split, each example counted exactly once on any number of replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from catdog.data.pipeline import evaluation_dataset, surfaced
from catdog.data.records import Records
from catdog.evaluation.metrics import is_right
from catdog.recipe import Recipe
from catdog.training.step import make_predict_step
from catdog.training.strategy import distributed


def make_validation(
    strategy: tf.distribute.Strategy, model: keras.Sequential, records: Records, recipe: Recipe
) -> Callable[[Callable[[], bool]], dict[str, float] | None]:
    """A function that gives the mean cross-entropy and the accuracy, or None as soon as its argument says to stop."""
    labels = records.labels.astype(np.float64)
    predict = make_predict_step(strategy, model)

    def validate(stopped: Callable[[], bool]) -> dict[str, float] | None:
        scores = np.full(len(labels), np.nan)
        batches = distributed(
            strategy,
            lambda share: evaluation_dataset(records, recipe.data.side, recipe.data.global_batch, share),
        )
        for elements in surfaced(batches, records):
            if stopped():
                return None
            examples, values = (tensor.numpy() for tensor in predict(elements))
            scores[examples[examples >= 0]] = values[examples >= 0]
        losses = np.logaddexp(0.0, scores) - labels * scores
        return {"loss": float(losses.mean()), "accuracy": float(is_right(labels, scores).mean())}

    return validate
