"""Loss and accuracy on the val split, each example counted exactly once on any number of replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from catdog.data import pipeline
from catdog.data.shards import Manifest
from catdog.recipe import Recipe
from catdog.storage import Bucket
from catdog.training.step import make_predict_step


def make_validation(
    strategy: tf.distribute.Strategy, model: keras.Sequential, data: Bucket, manifest: Manifest, recipe: Recipe
) -> Callable[[Callable[[], bool]], dict[str, float] | None]:
    """A function that gives the mean cross-entropy and the accuracy, or None as soon as its argument says to stop."""
    shards = manifest.split("val")
    labels = np.array([int(digit) for shard in shards for digit in shard.labels], np.float64)
    sizes, paths = [shard.examples for shard in shards], [data.path(shard.name) for shard in shards]
    batch, side = recipe.data.global_batch, recipe.data.side
    predict = make_predict_step(strategy, model)

    def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        return pipeline.evaluation_dataset(
            sizes,
            paths,
            side,
            batch,
            worker=context.input_pipeline_id,
            workers=workers,
            replicas=context.num_replicas_in_sync // workers,
        )

    def validate(stopped: Callable[[], bool]) -> dict[str, float] | None:
        scores = np.full(len(labels), np.nan)
        for elements in strategy.distribute_datasets_from_function(dataset):
            if stopped():
                return None
            examples, values = (tensor.numpy() for tensor in predict(elements))
            scores[examples[examples >= 0]] = values[examples >= 0]
        losses = np.logaddexp(0.0, scores) - labels * scores
        return {"loss": float(losses.mean()), "accuracy": float(((scores > 0) == (labels > 0.5)).mean())}

    return validate
