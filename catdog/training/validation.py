"""Loss and accuracy on the val split, each example counted exactly once on any number of replicas."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from catdog.data import order, pipeline
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
        workers = getattr(strategy.extended, "_num_workers", 1)
        replicas = strategy.num_replicas_in_sync // workers
        rows = [order.evaluation(sizes, batch, worker, workers, replicas) for worker in range(workers)]
        examples = np.concatenate(rows, axis=1)
        scores = np.full(len(labels), np.nan)
        batches = strategy.distribute_datasets_from_function(dataset)
        for elements, ids in zip(batches, examples.reshape(len(examples), -1), strict=True):
            if stopped():
                return None
            scores[ids[ids >= 0]] = predict(elements).numpy()[ids >= 0]
        losses = np.logaddexp(0.0, scores) - labels * scores
        return {"loss": float(losses.mean()), "accuracy": float(((scores > 0) == (labels > 0.5)).mean())}

    return validate
