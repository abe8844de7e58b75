"""Loss and accuracy on the val split, each example counted exactly once on any number of replicas."""

from collections.abc import Callable, Iterable

import numpy as np

from catdog.evaluation.metrics import is_right
from catdog.training.step import Batch, Predict

Validate = Callable[[Callable[[], bool]], dict[str, float] | None]


def make_validation(
    labels: np.ndarray,
    batches: Callable[[], Iterable[Batch]],
    predict: Predict,
) -> Validate:
    """A function that gives the mean cross-entropy and the accuracy, or None as soon as its argument says to stop.

    `labels` are those of all examples, float [examples]; `predict` is what `make_predict_step` gives.
    """

    def validate(stopped: Callable[[], bool]) -> dict[str, float] | None:
        scores = np.full(len(labels), np.nan)
        for elements in batches():
            if stopped():
                return None
            examples, values = (tensor.numpy() for tensor in predict(elements))
            scores[examples[examples >= 0]] = values[examples >= 0]
        losses = np.logaddexp(0.0, scores) - labels * scores
        return {"loss": float(losses.mean()), "accuracy": float(is_right(labels, scores).mean())}

    return validate
