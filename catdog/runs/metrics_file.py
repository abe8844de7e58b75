"""A run's metrics.jsonl, read back for plots and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catdog.errors import FinalError
from catdog.parsing import NotParsed, entry, is_unicode, parse_json
from catdog.runs.folder import METRICS

Line = dict[str, Any]

METRICS_BYTES = 1 << 28
"""The most that metrics.jsonl may have: a million lines."""
_FIGURES = {"step": int, "split": str, "loss": float, "accuracy": float}
_MORE = {"phase": str, "epoch": float, "time": float} | dict.fromkeys(
    ("learning_rate", "images_per_s", "data_wait"), float | None
)


@dataclass(frozen=True)
class Epoch:
    """One validation with what was trained since the one before; a figure that no line tells is None."""

    number: float
    phase: str
    step: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    learning_rate: float | None
    images_per_s: float | None
    data_wait: float | None


def parse_metrics(content: bytes, name: str = METRICS) -> list[Line]:
    """The lines of metrics.jsonl in order of steps; lines that a killed writer cut short are left out.

    Raises FinalError that names the line whose figures are none.
    """
    lines = []
    for number, text in enumerate(content.split(b"\n"), 1):
        try:
            line = parse_json(text)
            if isinstance(line, dict) and _FIGURES.keys() <= line.keys():
                _check(line)
                lines.append(line)
        except NotParsed:
            continue
        except ValueError as error:
            raise FinalError(f"{name}: line {number}: {error}; delete the line to go on without it") from None
    return sorted(lines, key=lambda line: line["step"])


def kept_lines(content: bytes, step: int, validated: int, name: str = METRICS) -> list[Line]:
    """The lines of metrics.jsonl that a run which goes on from `step` has behind it; raises as `parse_metrics`."""
    lines = parse_metrics(content, name)
    return [line for line in lines if line["step"] <= (validated if line["split"] == "val" else step)]


def phases(lines: Sequence[Line]) -> list[tuple[str, int, int]]:
    """(name, first step, last step) of each phase in order; the first step is where the phase before it ended."""
    spans: list[tuple[str, int, int]] = []
    for line in lines:
        name, step = str(line.get("phase", "")), int(line["step"])
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], step)
        else:
            spans.append((name, spans[-1][2] if spans else 0, step))
    return spans


def epochs(lines: Sequence[Line]) -> list[Epoch]:
    """One row for each validation."""
    rows: list[Epoch] = []
    since: list[Line] = []
    for line in sorted(lines, key=lambda line: (line["step"], line["split"] == "val")):
        if line["split"] == "train":
            since.append(line)
        elif line["split"] == "val":
            rows.append(
                Epoch(
                    number=line.get("epoch", len(rows) + 1),
                    phase=str(line.get("phase", "")),
                    step=int(line["step"]),
                    train_loss=_mean(since, "loss"),
                    train_accuracy=_mean(since, "accuracy"),
                    val_loss=line["loss"],
                    val_accuracy=line["accuracy"],
                    learning_rate=since[-1].get("learning_rate") if since else None,
                    images_per_s=_mean(since, "images_per_s"),
                    data_wait=_mean(since, "data_wait"),
                )
            )
            since = []
    return rows


def best_epoch(rows: Sequence[Epoch]) -> Epoch | None:
    """The row of the lowest validation loss, the first of equals: the weights of model.keras."""
    return min(rows, key=lambda row: row.val_loss, default=None)


def _check(line: Line) -> None:
    """Raises ValueError for a line with a figure that is none, or with text that cannot be written down."""
    for name, kind in (_FIGURES | _MORE).items():
        if name in line:
            entry(line, name, kind)
    if line["step"] < 0:
        raise ValueError(f"step = {line['step']}: must be at least 0")
    if not all(is_unicode(text) for pair in line.items() for text in pair if isinstance(text, str)):
        raise ValueError("it has text that is none in UTF-8")


def _mean(lines: Sequence[Line], key: str) -> float | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return float(np.mean(values)) if values else None
