"""Evaluate a run's model on one split of a data set, and write what came out into the run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.data.cache import open_cache
from catdog.data.csv_table import csv_table
from catdog.data.example import decode_example
from catdog.data.pipeline import evaluation_dataset, surfaced
from catdog.data.records import Records
from catdog.data.shards import CLASSES, SPLITS, Manifest, pinned
from catdog.errors import CallerError, RunError
from catdog.evaluation import metrics, plots, report
from catdog.evaluation.environment import environment
from catdog.evaluation.plots import Mistake
from catdog.evaluation.trained_model import BATCH, Trained, load_trained
from catdog.recipe import Cache
from catdog.runs.folder import METRICS, REPORT, evaluation
from catdog.runs.metrics_file import METRICS_BYTES, Line, parse_metrics
from catdog.storage import Bucket

_MISTAKES = 12


@dataclass(frozen=True)
class _Predictions:
    """What the model said of a split; row i is the split's example i."""

    filenames: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        return metrics.predicted(self.probabilities)

    @property
    def confidence(self) -> NDArray[np.float64]:
        return np.where(self.predicted == 1, self.probabilities, 1 - self.probabilities)

    @property
    def wrong(self) -> NDArray[np.int64]:
        """Indices of the wrong ones, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]


def evaluate(
    run: Bucket,
    data: Bucket,
    manifest: Manifest,
    cache: Cache,
    split: str = "test",
    folder: str | None = None,
    trained: Trained | None = None,
) -> dict[str, Any]:
    """Evaluate `model.keras` of the run; returns what metrics.json in the folder, evaluation/<split> by default, then holds.

    Who has that model in memory gives it as `trained`.

    Writes plots and predictions.csv there, then metrics.json, and at the end report.html for evaluation/test.
    Raises CallerError for an unknown or empty split and where the run, its model or the data set is missing, and
    RunError for a model or a shard that can't be used.
    """
    if split not in SPLITS:
        raise CallerError(f"split = {split!r}: must be one of {', '.join(SPLITS)}")
    lines = parse_metrics(run.find(METRICS, METRICS_BYTES) or b"", f"{run.uri}/{METRICS}")
    trained = trained or load_trained(run)
    if not any(shard.examples for shard in manifest.split(split)):
        raise CallerError(f"{data.uri}: its {split} split is empty; prepare the data set with a larger --{split}")
    run.require_writable()  # not only when all is evaluated
    shards = manifest.split(split)
    with open_cache(data, pinned(data, shards), cache) as files:
        records = Records(shards, files)
        predictions = _predict(trained, records)
        mistakes = _mistakes(predictions, records)
    summary = {
        "split": split,
        **metrics.summarize(predictions.labels, predictions.probabilities),
        "data": _data(manifest, data),
        "environment": environment(),
    }
    images = _plots(predictions, summary, lines)
    folder = folder if folder is not None else evaluation(split)
    for name, image in images.items():
        run.write(f"{folder}/{name}.png", image)
    run.write(f"{folder}/mistakes.png", plots.mistakes(mistakes))
    run.write(f"{folder}/predictions.csv", _csv(predictions))
    run.write(f"{folder}/metrics.json", (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    if folder == evaluation("test"):
        name = run.uri.rstrip("/").rpartition("/")[2]
        page = report.render(name, summary, trained.recipe, lines, images, mistakes)
        run.write(REPORT, page.encode(errors="backslashreplace"))  # a data set's source may be a path of odd bytes
    return summary


def _predict(trained: Trained, records: Records) -> _Predictions:
    probabilities = np.full(sum(records.sizes), np.nan)
    for batch in surfaced(evaluation_dataset(records, trained.recipe.data.side, BATCH), records):
        real = batch["weight"].numpy() > 0
        probabilities[batch["example"].numpy()[real]] = trained.probabilities(batch["image"])[real]
    named = _features(records, range(len(probabilities)), "image/filename")
    filenames = tuple(name.decode(errors="replace") for name in named)
    return _Predictions(filenames, records.labels, probabilities)


def _mistakes(predictions: _Predictions, records: Records) -> list[Mistake]:
    chosen = predictions.wrong[:_MISTAKES].tolist()
    return [
        Mistake(
            filename=predictions.filenames[example],
            label=CLASSES[predictions.labels[example]],
            predicted=CLASSES[predictions.predicted[example]],
            probability=float(predictions.confidence[example]),
            picture=picture,
        )
        for example, picture in zip(chosen, _features(records, chosen, "image/encoded"), strict=True)
    ]


def _features(records: Records, examples: Iterable[int], name: str) -> list[bytes]:
    """One feature, of bytes, of each example; raises RunError that names the record which has none such."""
    with records.reading() as reader:
        return [_bytes(reader.read([index])[0], name, records.place(index)) for index in examples]


def _bytes(payload: bytes, name: str, record: str) -> bytes:
    try:
        value = decode_example(payload).get(name)
    except ValueError as error:
        raise RunError(f"{record}: is no tf.train.Example: {error}; `catdog verify` tells more") from None
    if not isinstance(value, bytes):
        raise RunError(f"{record}: {name} is missing or of the wrong type; `catdog verify` tells more")
    return value


def _plots(predictions: _Predictions, summary: dict[str, Any], lines: Sequence[Line]) -> dict[str, bytes]:
    labels, probabilities = predictions.labels, predictions.probabilities
    return {
        "loss": plots.loss(lines),
        "accuracy": plots.accuracy(lines),
        "roc": plots.roc(labels, probabilities, summary["roc_auc"]),
        "precision_recall": plots.precision_recall(labels, probabilities, summary["pr_auc"]),
        "confusion": plots.confusion(summary["confusion"]),
        "reliability": plots.reliability(summary["reliability"], summary["ece"]),
    }


def _csv(predictions: _Predictions) -> bytes:
    columns = (predictions.filenames, predictions.labels, predictions.probabilities, predictions.predicted)
    rows = (
        (filename, CLASSES[label], f"{probability:.6f}", CLASSES[choice], str(choice == label).lower(), index)
        for index, (filename, label, probability, choice) in enumerate(zip(*columns, strict=True))
    )
    return csv_table(["filename", "label", "probability_dog", "predicted", "correct", "example"], rows)


def _data(manifest: Manifest, data: Bucket) -> dict[str, Any]:
    return {
        "uri": data.uri,
        "source": manifest.source,
        "options": manifest.options,
        "digest": manifest.digest,
        "splits": {split: manifest.per_class(split) for split in SPLITS},
    }
