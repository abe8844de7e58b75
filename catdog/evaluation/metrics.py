"""What a split's labels and probabilities say of a classifier, as plain numbers fit for JSON."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import sklearn.metrics as sk
from numpy.typing import NDArray

from catdog.data.shards import CLASSES

THRESHOLD = 0.5
"""Probability of dog above which a picture is called a dog; exactly one half is a cat, as in Keras' BinaryAccuracy."""
BINS = 15
_THRESHOLD_LOGIT = math.log(THRESHOLD / (1 - THRESHOLD))
_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
_EPSILON = 1e-7  # Keras' clipping of probabilities, so that log_loss compares with the losses of training


def predicted(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Predicted class, int64 [n] of 0 (cat) or 1 (dog), from the probabilities of dog, [n] in 0..1."""
    return (probabilities > THRESHOLD).astype(np.int64)


def is_right(labels: Any, logits: Any) -> Any:
    """Whether each logit lies on its label's side of the threshold, bool [n]; NumPy arrays or tensors, labels in 0..1."""
    return (logits > _THRESHOLD_LOGIT) == (labels > THRESHOLD)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, 1927); it stays within 0..1 and holds at 0 % and 100 % too."""
    rate, z2 = successes / trials, _Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[dict[str, float]]:
    """The filled ones of 15 equal bins over 0..1 of the confidence in the predicted class.

    Each is {low, high, count, confidence, accuracy}, the last two means over the bin: a reliability diagram as in
    Guo et al., 2017, "On Calibration of Modern Neural Networks".
    """
    confidence = np.maximum(probabilities, 1 - probabilities)
    right = predicted(probabilities) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "count": int((bins == b).sum()),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in np.unique(bins).tolist()
    ]


def expected_calibration_error(bins: list[dict[str, float]]) -> float:
    """Mean gap between confidence and accuracy over `reliability` bins, weighted by count (Naeini et al., 2015)."""
    total = sum(b["count"] for b in bins)
    return sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total


def summarize(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """All metrics of one split.

    `labels` is int [n] of 0 (cat) or 1 (dog); `probabilities` is float [n] in 0..1, of dog. n is at least 1.
    The curves take dog as the positive class; pr_auc is the average precision. `confusion` is [truth][prediction].
    A metric that these labels do not define is None, with its reason under `undefined`; nothing is NaN.
    Raises ValueError for other input.
    """
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape or labels.size == 0:
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape}: must be two equal [n], n >= 1"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels {np.unique(labels).tolist()}: must be 0 or 1")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must be finite and within 0..1")

    choice = predicted(probabilities)
    right = int((choice == labels).sum())
    clipped = np.clip(probabilities, _EPSILON, 1 - _EPSILON)
    log_loss = float(sk.log_loss(labels, np.stack([1 - clipped, clipped], axis=1), labels=[0, 1]))
    bins = reliability(labels, probabilities)
    both = len(np.unique(labels)) == 2
    classes = _per_class(labels, choice)
    summary = {
        "examples": labels.size,
        "correct": right,
        "loss": log_loss,
        "log_loss": log_loss,
        "accuracy": right / labels.size,
        "accuracy_interval": list(wilson(right, labels.size)),
        "balanced_accuracy": float(sk.balanced_accuracy_score(labels, choice)) if both else None,
        "roc_auc": float(sk.roc_auc_score(labels, probabilities)) if both else None,
        "pr_auc": float(sk.average_precision_score(labels, probabilities)) if both else None,
        "brier": float(sk.brier_score_loss(labels, probabilities, labels=[0, 1])),
        "ece": expected_calibration_error(bins),
        "classes": classes,
        "confusion": sk.confusion_matrix(labels, choice, labels=[0, 1]).tolist(),
        "reliability": bins,
    }
    return summary | {"undefined": _undefined(labels, classes)}


def no_verdict(summary: Mapping[str, Any]) -> str:
    """Why the figures of `summarize` do not tell how well the classes are told apart; empty where they do."""
    present = [name for name, values in summary["classes"].items() if values["support"]]
    if len(present) == len(CLASSES):
        return ""
    return f"every example is a {present[0]}, so this does not tell whether the model can tell cats from dogs"


def _per_class(labels: NDArray[np.int64], choice: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    columns = sk.precision_recall_fscore_support(labels, choice, labels=[0, 1], zero_division=np.nan)
    names = ("precision", "recall", "f1", "support")
    return {
        name: {
            key: int(column[index]) if key == "support" else _finite(column[index])
            for key, column in zip(names, columns, strict=True)
        }
        for index, name in enumerate(CLASSES)
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _undefined(labels: NDArray[np.int64], classes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Why each metric that is None is so."""
    present = np.unique(labels)
    reasons = {}
    if len(present) == 1:
        only = f"every example is a {CLASSES[present[0]]}: both classes are needed"
        reasons = dict.fromkeys(("balanced_accuracy", "roc_auc", "pr_auc"), only)
    why = {
        "precision": "nothing was predicted to be a {}",
        "recall": "no example is a {}",
        "f1": "no example is a {0} and nothing was predicted to be one",
    }
    for name, values in classes.items():
        reasons |= {f"classes.{name}.{key}": text.format(name) for key, text in why.items() if values[key] is None}
    return reasons
