"""report.html: one page with nothing to load, from what an evaluation and a training have left."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from catdog.data.images import decode_stored
from catdog.errors import printable
from catdog.evaluation.metrics import no_verdict
from catdog.evaluation.plots import Mistake
from catdog.recipe import Recipe, to_toml
from catdog.runs.metrics_file import Epoch, Line, best_epoch, epochs, phases

_TEMPLATE = Path(__file__).with_name("report.html")
_PICTURE = 320  # pixels, the longer side of a mistake's picture
_MISSING = "\N{EN DASH}"
_OPEN_ROWS = 30  # longer tables start folded
_CURVES = {
    "confusion": ("Confusion matrix", "Rows are the truth, columns what the model said."),
    "reliability": (
        "Reliability diagram",
        "How often the model is right when it is this sure, with 95% intervals; below, how many examples that is.",
    ),
    "roc": ("ROC curve", "Dogs found against cats wrongly called dogs, as the threshold moves."),
    "precision_recall": ("Precision-recall curve", "How pure the found dogs stay as more of them are found."),
}
_PROGRESS = {
    "loss": ("Loss over steps", "Train loss is that of augmented images and includes the recipe's loss settings."),
    "accuracy": ("Accuracy over steps", "Train accuracy is that of augmented images, before each step's update."),
}


def render(
    name: str,
    metrics: Mapping[str, Any],
    recipe: Recipe,
    lines: Sequence[Line],
    images: Mapping[str, bytes],
    mistakes: Sequence[Mistake],
) -> str:
    """The page as HTML.

    `name` is the run's; `metrics` is what metrics.json holds; `lines` are those of metrics.jsonl; `images` are PNGs:
    confusion, reliability, roc, precision_recall, loss and accuracy. All text is escaped.
    """
    rows = epochs(lines)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(f"{name}: {'no verdict' if no_verdict(metrics) else _percent(metrics['accuracy']) + ' right'}"),
        lead=_text(_lead(metrics, recipe)),
        figures=_figures(metrics),
        classes=_classes(metrics),
        undefined=_undefined(metrics["undefined"]),
        split=_text(metrics["split"]),
        curves=_plots(images, _CURVES),
        mistakes=_mistakes(mistakes, metrics["examples"] - metrics["correct"]),
        training=_text(_training(recipe, lines, rows)),
        progress=_plots(images, _PROGRESS),
        epochs=_epochs(rows),
        data=_data(metrics["data"]),
        environment=_facts(metrics.get("environment", {}).items()),
        recipe="\n".join(map(_text, to_toml(recipe).strip().split("\n"))),
    )


def _lead(metrics: Mapping[str, Any], recipe: Recipe) -> str:
    weights = {"bundled": "bundled weights", "imagenet": "ImageNet weights", "none": "no pretrained weights"}
    reason = no_verdict(metrics)
    return (
        f"{recipe.model.backbone} from {weights.get(recipe.model.weights, recipe.model.weights)}"
        f" at {recipe.data.side} pixels, tested on {metrics['examples']:,} examples of {metrics['data']['source']}."
        f"{f' No verdict: {reason}.' if reason else ''}"
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_interval"]
    # The bar shows one half to one, where a classifier of two classes lives; a worse one's marks stay at its left end.
    left, mark, right = (max(0.0, 200 * value - 100) for value in (low, metrics["accuracy"], high))
    told = f"{metrics['correct']:,} of {metrics['examples']:,} right; 95% interval {_percent(low)} to {_percent(high)}"
    first = f"""<div class="card first"><div class="name">Accuracy</div>
<div class="value">{_percent(metrics["accuracy"])}</div>
<div class="range" aria-hidden="true">
<i style="left:{left:.2f}%;width:{right - left:.2f}%"></i><b style="left:{mark:.2f}%"></b>
</div>
<div class="ends" aria-hidden="true"><span>50%</span><span>100%</span></div>
<div class="of">{told}</div></div>"""
    rest = [
        ("Log loss", f"{metrics['log_loss']:.4f}", "0 is perfect, 0.693 is guessing"),
        ("Balanced accuracy", _percent(metrics["balanced_accuracy"]), "mean recall of both classes"),
        ("ROC-AUC", _decimals(metrics["roc_auc"]), "chance that a dog ranks above a cat"),
        ("PR-AUC", _decimals(metrics["pr_auc"]), "average precision for dogs"),
        ("Brier score", f"{metrics['brier']:.4f}", "squared error of the probability; 0.25 is guessing"),
        ("Calibration error", f"{metrics['ece']:.4f}", "ECE, mean gap of confidence and accuracy"),
        ("Cats found", _percent(metrics["classes"]["cat"]["recall"]), "recall of cats"),
        ("Dogs found", _percent(metrics["classes"]["dog"]["recall"]), "recall of dogs"),
    ]
    cards = (
        f"""<div class="card"><div class="name">{title}</div>
<div class="value">{value}</div><div class="of">{of}</div></div>"""
        for title, value, of in rest
    )
    return "\n".join([first, *cards])


def _classes(metrics: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_percent(values[key]) for key in ("precision", "recall", "f1")), f"{values['support']:,}"]
        for name, values in metrics["classes"].items()
    ]
    return _table(["Class", "Precision", "Recall", "F1", "Count"], rows)


def _undefined(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    told = "; ".join(f"{name.removeprefix('classes.')}: {reason}" for name, reason in reasons.items())
    return f'<p class="note">Without a value ({_MISSING}): {_text(told)}.</p>'


def _mistakes(mistakes: Sequence[Mistake], total: int) -> str:
    if not mistakes:
        return '<div class="card">There are none: every example was classified right.</div>'
    which = "All" if len(mistakes) == total else f"The {len(mistakes)} most confident"
    cards = "\n".join(_mistake(mistake) for mistake in mistakes)
    note = f"{which} of {total:,} wrong answers, the surest first; the percentage is the model's confidence."
    return f"""<p class="note">{note}</p>
<div class="mistakes">
{cards}
</div>"""


def _mistake(mistake: Mistake) -> str:
    alt = f"{mistake.filename}: a {mistake.label}, called {mistake.predicted}"
    source, sure = _uri(_thumbnail(mistake.picture), "jpeg"), _percent(mistake.probability)
    return f"""<figure class="card"><img src="{source}" alt="{_text(alt)}">
<figcaption>{_text(mistake.label)}, called <span class="wrong">{_text(mistake.predicted)}</span> {sure}
<div class="of">{_text(mistake.filename)}</div></figcaption></figure>"""


def _training(recipe: Recipe, lines: Sequence[Line], rows: Sequence[Epoch]) -> str:
    if not lines:
        return "The run has no metrics.jsonl, so its course is not known."
    spans = phases(lines)
    course = " → ".join(name for name, _, _ in spans)
    told = f"{spans[-1][2]:,} steps of {recipe.data.global_batch} examples ({course})"
    times = [line["time"] for line in lines if "time" in line]
    if times:
        told += f", {_duration(max(times) - min(times))} from the first logged line to the last"
    kept = best_epoch(rows)
    return f"{told}; the model of epoch {kept.number:g} was kept." if kept else f"{told}."


def _epochs(rows: Sequence[Epoch]) -> str:
    if not rows:
        return ""
    kept = best_epoch(rows)
    head = [
        "Epoch",
        "Phase",
        "Val loss",
        "Val acc.",
        "Train loss",
        "Train acc.",
        "Rate",
        "Images/s",
        "Data wait",
        "Step",
    ]
    table = _table(
        head,
        [
            [
                f"{row.number:g}",
                row.phase,
                _decimals(row.val_loss),
                _percent(row.val_accuracy),
                _decimals(row.train_loss),
                _percent(row.train_accuracy),
                _number(row.learning_rate, ".1e"),
                _number(row.images_per_s, ",.0f"),
                _percent(row.data_wait),
                f"{row.step:,}",
            ]
            for row in rows
        ],
        marked=next(index for index, row in enumerate(rows) if row is kept),
    )
    unfolded = " open" if len(rows) <= _OPEN_ROWS else ""
    return f"""<details class="card"{unfolded}>
<summary>Metrics of the {len(rows)} epochs; the coloured row is the model that was kept</summary>
<div class="scroll">{table}</div></details>"""


def _data(data: Mapping[str, Any]) -> str:
    rows = [
        [split, *(f"{count:,}" for count in per_class.values()), f"{sum(per_class.values()):,}"]
        for split, per_class in data["splits"].items()
    ]
    options = ", ".join(f"{key} = {value}" for key, value in data["options"].items() if value not in ({}, None))
    facts = [("Source", data["source"]), ("Folder", data["uri"]), ("Options", options), ("SHA-256", data["digest"])]
    names = list(next(iter(data["splits"].values()), {}))
    table = _table(["Split", *(f"{name}s" for name in names), "All"], rows)
    return f'{_facts(facts)}<div class="scroll">{table}</div>'


def _plots(images: Mapping[str, bytes], captions: Mapping[str, tuple[str, str]]) -> str:
    return "\n".join(
        f"""<figure class="card"><h3>{title}</h3>
<img src="{_uri(images[name], "png")}" alt="{_text(f"{title}: {caption}")}">
<figcaption>{_text(caption)}</figcaption></figure>"""
        for name, (title, caption) in captions.items()
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    """An HTML table; `marked` is the index of the row to set off."""
    kept = ' class="kept"'
    body = "\n".join(
        f"<tr{kept if index == marked else ''}>{_cells('td', head, row)}</tr>" for index, row in enumerate(rows)
    )
    return f"<table><thead><tr>{_cells('th', head, head)}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _cells(tag: str, head: Sequence[str], values: Sequence[str]) -> str:
    kinds = (' class="text"' if name == "Phase" else "" for name in head)
    return "".join(f"<{tag}{kind}>{_text(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    known = ((name, str(value)) for name, value in facts if value not in ("", None))
    told = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in known)
    return f"<dl>{told}</dl>" if told else '<p class="note">Not recorded.</p>'


def _thumbnail(encoded: bytes) -> bytes:
    buffer = io.BytesIO()
    small = decode_stored(encoded).convert("RGB")
    small.thumbnail((_PICTURE, _PICTURE))
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _text(value: str) -> str:
    return html.escape(printable(value))


def _number(value: float | None, form: str) -> str:
    return _MISSING if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return _number(value, ".1%")


def _decimals(value: float | None) -> str:
    return _number(value, ".4f")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
