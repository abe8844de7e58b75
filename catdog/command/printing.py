"""What the commands print."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Union

from catdog.data.shards import SPLITS, Manifest
from catdog.errors import printable, tell

if TYPE_CHECKING:
    from rich.table import Column

    from catdog.evaluation.predict import Prediction
    from catdog.runs.listing import Summary
    from catdog.runs.pull import Pulled


def print_table(columns: Sequence[Union[str, "Column"]], rows: Iterable[Sequence[str]]) -> None:
    """Rows of cells under the columns' titles; where stdout is no terminal each row keeps to one line, however long."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def print_manifest(manifest: Manifest) -> None:
    """A line a split."""
    for split in SPLITS:
        counts = manifest.per_class(split)
        classes = ", ".join(f"{count} {name}" for name, count in counts.items())
        tell(f"{split:<5} {sum(counts.values()):>7} examples ({classes}) in {len(manifest.split(split))} shards")


def print_evaluation(metrics: dict[str, Any]) -> None:
    """Accuracy with its interval, and log loss, of what evaluation/<split>/metrics.json holds."""
    low, high = metrics["accuracy_interval"]
    count, split = metrics["examples"], metrics["split"]
    tell(f"{split} accuracy {metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {count} examples)")
    tell(f"log loss {metrics['log_loss']:.4f}")


def print_runs(runs: Sequence["Summary"]) -> None:
    """A line a run."""
    from rich.table import Column

    titles = ("step", "val loss", "val accuracy", "test accuracy", "age")
    figures = [Column(title, justify="right", no_wrap=True) for title in titles]
    now = time.time()
    print_table(["run", Column("state", no_wrap=True), *figures], [_cells(run, now) for run in runs])


def print_pulled(pulled: "Pulled") -> None:
    """What was brought and what was there already."""
    from rich.filesize import decimal

    brought = pulled.files - pulled.there
    best = f", and of step {pulled.best}, the best by then" if pulled.best not in (None, pulled.step) else ""
    tell(f"brought {brought} files, {decimal(pulled.size)}; {pulled.there} of {pulled.files} files were there already")
    tell(f"checkpoint of step {pulled.step}{best}")
    if pulled.newest > pulled.step:
        tell(f"training would go on from step {pulled.newest}, which was there already")


def _cells(run: "Summary", now: float) -> list[str]:
    loss, accuracy = (run.best.val_loss, run.best.val_accuracy) if run.best else (None, None)
    figures = ["-" if x is None else f"{x:.4f}" for x in (loss, accuracy, run.test_accuracy)]
    return [run.name, run.state, "-" if run.step is None else str(run.step), *figures, _ago(now - run.changed)]


def _ago(seconds: float) -> str:
    """How long something is past, in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def as_json(prediction: "Prediction") -> str:
    """One JSON object on one line; bytes of the path that are no UTF-8 stand in it as `\\xff`, as in skipped.csv."""
    path = {"path": os.fsencode(prediction.path).decode(errors="backslashreplace")}
    if prediction.error is not None:
        return json.dumps(path | {"error": prediction.error})
    return json.dumps(path | {"class": prediction.predicted, "probability": prediction.probability})
