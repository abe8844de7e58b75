"""The plots of a report: pure functions from numbers to PNG bytes, drawn the same whatever a `matplotlibrc` says."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
import sklearn.metrics as sk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import ImageOps

from catdog.data.images import decode_stored
from catdog.data.shards import CLASSES
from catdog.errors import printable
from catdog.evaluation.metrics import BINS, THRESHOLD, predicted, wilson
from catdog.runs.metrics_file import Line, best_epoch, epochs, phases

# Okabe and Ito's colours, told apart under all common kinds of colour blindness.
BLUE, VERMILION = "#0072B2", "#D55E00"
INK, MUTED, GRID = "#1c2430", "#5b6673", "#e4e8ed"
_WIDTH, _HEIGHT = 4.8, 3.6  # inches: narrow, so that 10 pt text stays readable when the width is a phone's
_TALL = 4.4
_DPI = 200
_TILE = 240  # pixels
Corner = Literal["lower left", "lower right", "upper right"]
_DASHES = (0, (4, 3))
_PLAIN = matplotlib.rc_context({name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"})


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified example; `probability` is that of the predicted class, `picture` a JPEG."""

    filename: str
    label: str
    predicted: str
    probability: float
    picture: bytes


@_PLAIN
def loss(lines: Sequence[Line]) -> bytes:
    """Loss over steps of the lines of metrics.jsonl."""
    return _over_steps(lines, "loss")


@_PLAIN
def accuracy(lines: Sequence[Line]) -> bytes:
    """Accuracy over steps of the lines of metrics.jsonl."""
    return _over_steps(lines, "accuracy")


@_PLAIN
def roc(labels: NDArray[np.int64], probabilities: NDArray[np.float64], area: float | None) -> bytes:
    """Receiver operating characteristic with dog as the positive class; labels [n] of 0 or 1, probabilities [n]."""
    if area is None:
        return _message("No ROC curve: it needs both classes.")
    figure, axes = _figure("False positive rate (cats called dogs)", "True positive rate (dogs found)")
    false, true, _ = sk.roc_curve(labels, probabilities)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=_DASHES, label="guessing")
    axes.plot(false, true, color=BLUE, linewidth=2, label=f"this model, AUC {area:.4f}", zorder=3)
    choice = predicted(probabilities)
    _mark_threshold(axes, float(choice[labels == 0].mean()), float(choice[labels == 1].mean()))
    return _square(figure, axes, "lower right")


@_PLAIN
def precision_recall(labels: NDArray[np.int64], probabilities: NDArray[np.float64], area: float | None) -> bytes:
    """Precision over recall with dog as the positive class; labels [n] of 0 or 1, probabilities [n]."""
    if area is None:
        return _message("No precision-recall curve: it needs both classes.")
    figure, axes = _figure("Recall (dogs found)", "Precision (of those called dogs)")
    precision, recall, _ = sk.precision_recall_curve(labels, probabilities)
    share = float(np.mean(labels))
    axes.plot([0, 1], [share, share], color=MUTED, linewidth=1, linestyle=_DASHES, label="guessing")
    label = f"this model, AP {area:.4f}"
    axes.step(recall, precision, color=BLUE, linewidth=2, where="post", label=label, zorder=3)
    choice = predicted(probabilities)
    if choice.any():
        _mark_threshold(axes, float(choice[labels == 1].mean()), float(labels[choice == 1].mean()))
    return _square(figure, axes, "lower left")


@_PLAIN
def confusion(counts: Sequence[Sequence[int]]) -> bytes:
    """Confusion matrix: counts[truth][prediction], with each count's part of its row."""
    table = np.asarray(counts, np.float64)
    parts = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure("Prediction", "Truth", _TALL)
    shades = LinearSegmentedColormap.from_list("blues", ["#f3f7fa", BLUE])
    axes.imshow(parts, cmap=shades, vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    for truth in range(2):
        for prediction in range(2):
            part = parts[truth, prediction]
            colour = "white" if part > 0.55 else INK
            axes.text(prediction, truth - 0.06, f"{int(table[truth, prediction]):,}", ha="center", va="center",
                      color=colour, fontsize=22, fontweight="bold")  # fmt: skip
            axes.text(prediction, truth + 0.22, f"{part:.1%} of the {CLASSES[truth]}s", ha="center", va="center",
                      color=colour, fontsize=9.5)  # fmt: skip
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES)
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    axes.set_xticks([0.5], minor=True)
    axes.set_yticks([0.5], minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="minor", length=0)
    return _png(figure)


@_PLAIN
def reliability(bins: Sequence[dict[str, float]], error: float) -> bytes:
    """Accuracy over confidence in bins of `metrics.reliability`, each with its 95 % interval, above the counts."""
    figure = _canvas(_TALL)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _style(upper, "", "Accuracy")
    _style(lower, "Confidence in the predicted class", "Examples")
    counts = np.array([int(b["count"]) for b in bins])
    means = np.array([b["confidence"] for b in bins])
    rates = np.array([b["accuracy"] for b in bins])
    ends = np.array([wilson(round(rate * count), count) for rate, count in zip(rates, counts.tolist(), strict=True)])
    reach = np.abs(ends.T - rates)
    upper.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=_DASHES, label="perfectly calibrated")
    upper.errorbar(means, rates, reach, color=BLUE, linewidth=1.5, marker="o", markersize=5, elinewidth=1.2, capsize=3,
                   label=f"this model, ECE {error:.3f}", zorder=4)  # fmt: skip
    middle = [(b["low"] + b["high"]) / 2 for b in bins]
    drawn = lower.bar(middle, counts, 0.92 / BINS, color=BLUE, alpha=0.75)
    lower.bar_label(drawn, labels=[f"{count:,}" for count in counts.tolist()], fontsize=8, color=INK, padding=1)
    lower.set_ylim(0, counts.max() * 1.35)
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    upper.set_xlim(7 / BINS, 1.01)
    upper.set_ylim(-0.02, 1.03)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(upper, "lower right")
    figure.align_ylabels()
    return _png(figure)


@_PLAIN
def mistakes(chosen: Sequence[Mistake]) -> bytes:
    """The mistakes as a sheet of pictures, three in a row, or a line that says that there are none."""
    if not chosen:
        return _message("No mistakes: every example was classified right.")
    columns = 3
    rows = -(-len(chosen) // columns)
    figure = _canvas(1.95 * rows, dpi=150)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index >= len(chosen):
            continue
        mistake = chosen[index]
        picture = decode_stored(mistake.picture).convert("RGB")
        axes.imshow(np.asarray(ImageOps.pad(picture, (_TILE, _TILE), color=GRID)))
        # A user's file name is no formula, even with two dollar signs.
        axes.set_title(_shorten(printable(mistake.filename), 22), fontsize=7.5, color=MUTED, pad=3, parse_math=False)
        said = f"{mistake.label}, called {mistake.predicted} ({mistake.probability:.1%})"
        axes.text(0.5, -0.04, said, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=INK)
    return _png(figure)


def _over_steps(lines: Sequence[Line], key: str) -> bytes:
    train = [line for line in lines if line["split"] == "train"]
    val = [line for line in lines if line["split"] == "val"]
    if not train and not val:
        return _message("No curve: the run has no metrics.jsonl.")
    figure, axes = _figure("Step", key.capitalize())
    _draw_train(axes, train, key)
    if val:
        steps, values = [line["step"] for line in val], [line[key] for line in val]
        axes.plot(
            steps, values, color=VERMILION, linewidth=1.5, marker="o", markersize=4.5, label="validation", zorder=4
        )
    if kept := best_epoch(epochs(lines)):
        value = kept.val_loss if key == "loss" else kept.val_accuracy
        axes.plot(kept.step, value, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK,
                  markeredgewidth=1.3, label="kept: lowest validation loss", zorder=5)  # fmt: skip
    axes.set_xlim(left=0)
    if key == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _mark_phases(axes, phases(lines))
    _legend(axes, "lower right" if key == "accuracy" else "upper right")
    return _png(figure)


def _draw_train(axes: Axes, train: Sequence[Line], key: str) -> None:
    """Raw values faint, smoothed ones bold; each phase by itself, for the curve may jump between two."""
    label: str | None = "train, smoothed"
    for name in dict.fromkeys(line.get("phase") for line in train):
        part = [line for line in train if line.get("phase") == name]
        steps, values = np.array([line["step"] for line in part]), np.array([line[key] for line in part], np.float64)
        axes.plot(steps, values, color=BLUE, linewidth=1, alpha=0.28, marker="." if len(part) < 3 else None)
        axes.plot(steps, smooth(values, max(3.0, len(values) / 12)), color=BLUE, linewidth=2, label=label)
        label = None


def _mark_phases(axes: Axes, spans: Sequence[tuple[str, int, int]]) -> None:
    """A line where a phase ends and the next begins, and each phase's name above its part of the plot."""
    for _, first, _ in spans[1:]:
        axes.axvline(first, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    if len(spans) > 1:
        for name, first, last in spans:
            axes.text((first + last) / 2, 1.015, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                      fontsize=9, color=MUTED, parse_math=False)  # fmt: skip


def _canvas(height: float, dpi: int = _DPI) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(_WIDTH, height), dpi=dpi, layout=layout, facecolor="white")


def _figure(xlabel: str, ylabel: str, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = _canvas(height)
    axes = figure.subplots()
    _style(axes, xlabel, ylabel)
    return figure, axes


def _style(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(axes: Axes, place: Corner) -> None:
    legend = axes.legend(loc=place, fontsize=8.5, labelcolor=INK, framealpha=0.9, edgecolor=GRID, borderpad=0.5)
    legend.set_zorder(6)


def _mark_threshold(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        x, y, "o", markersize=7, color=VERMILION, markeredgecolor="white", label=f"at threshold {THRESHOLD:g}", zorder=4
    )


def _square(figure: Figure, axes: Axes, place: Corner) -> bytes:
    axes.set_xlim(-0.015, 1.015)
    axes.set_ylim(-0.015, 1.025)
    _legend(axes, place)
    return _png(figure)


def _message(text: str) -> bytes:
    figure = _canvas(1.4)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=10.5, color=INK)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A file name may hold letters that the font lacks; a box in their place will do.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _shorten(name: str, width: int) -> str:
    """The end of a long name, for folders' names come first."""
    return name if len(name) <= width else "…" + name[-width + 1 :]


def smooth(values: NDArray[np.float64], span: float) -> NDArray[np.float64]:
    """Exponential moving average over about `span` values, without the usual bias towards the start (as in Adam)."""
    decay = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed = np.empty_like(values)
    for index, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1
        smoothed[index] = total / weight
    return smoothed
