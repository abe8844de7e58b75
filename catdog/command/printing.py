"""What the commands print."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Union

from catdog.data.shards import SPLITS, Manifest
from catdog.errors import printable, tell

if TYPE_CHECKING:
    from rich.table import Column

    from catdog.data.duplicates import NearDuplicates
    from catdog.evaluation.predict import Prediction
    from catdog.planning.plan import Plan
    from catdog.runs.listing import Summary
    from catdog.runs.pull import Pulled
    from catdog.training.profiler import PhaseProfile

_WARNINGS = 20  # of a kind that are printed


_SKEW = 60.0
"""Seconds by which two machines' clocks may well differ."""


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


def print_own_splits(manifest: Manifest) -> None:
    """Which splits are the source's own, and what became of the options that would have made them; nothing without."""
    held = [split for split in manifest.own_splits if split != "train"]
    if manifest.own_splits == ("train",):
        tell("the source's own folder train is kept: what lies beside it is left out; val and test are split off train")
    if held:
        kept = f"the source's own split is kept: {', '.join(manifest.own_splits)} as its folders say"
        unused = " and ".join(f"--{split}" for split in held)
        others = (split for split in ("val", "test") if split not in held)
        made = (f"; {split} split off train (--{split} {manifest.options.get(split)})" for split in others)
        tell(f"{kept} ({unused} not used){''.join(made)}")


def print_near_duplicates(pairs: Sequence["NearDuplicates"], where: str) -> None:
    """How many pairs there are, and which are not as they should be; nothing without."""
    if pairs:
        splits = sum(len({*pair.splits}) > 1 for pair in pairs)
        classes = sum(len({*pair.labels}) > 1 for pair in pairs)
        tell(f"{_count(len(pairs), 'pair')} of near-duplicates, listed in {where}")
        if splits:
            tell(f"warning: {_count(splits, 'pair')} of them across the source's own splits, which stay as they are")
        if classes:
            tell(f"warning: {_count(classes, 'pair')} of them under both classes")


def print_warnings(warnings: Sequence[str]) -> None:
    """A line each, but of many only the first."""
    for warning in warnings[:_WARNINGS]:
        tell(f"warning: {warning}")
    if len(warnings) > _WARNINGS:
        tell(f"warning: and {len(warnings) - _WARNINGS} more of the kind")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_evaluation(metrics: dict[str, Any]) -> None:
    """Accuracy with its interval, log loss, and whether they say anything, of what evaluation/<split>/metrics.json holds."""
    from catdog.evaluation.metrics import no_verdict

    low, high = metrics["accuracy_interval"]
    count, split = metrics["examples"], metrics["split"]
    tell(f"{split} accuracy {metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {count} examples)")
    tell(f"log loss {metrics['log_loss']:.4f}")
    if reason := no_verdict(metrics):
        tell(f"no verdict: {reason}")


def print_profile(phases: Sequence["PhaseProfile"]) -> None:
    """The seconds of each phase by part, and their share of it."""
    from rich.table import Column
    from rich.text import Text

    def cell(phase: "PhaseProfile", part: str) -> str:
        return f"{phase.seconds[part]:.1f} s {phase.seconds[part] / sum(phase.seconds.values()):4.0%}"

    columns = [Column(Text(printable(phase.name)), justify="right") for phase in phases]
    rows = [[part, *(cell(phase, part) for phase in phases)] for part in phases[0].seconds]
    print_table(["time spent", *columns], [["steps", *(str(phase.steps) for phase in phases)], *rows])


def print_plans(plans: Sequence["Plan"], price: float) -> None:
    """A line for each phase of each plan, and one for each plan, with its cost if there is a price."""
    from rich.filesize import decimal
    from rich.table import Column

    def right(*titles: str) -> list[Column]:
        return [Column(title, justify="right") for title in titles]

    rows = [
        [
            str(plan.hosts.count),
            phase.name,
            *(
                str(phase.steps),
                f"{1000 * phase.step:.1f} ms",
                f"{1000 * phase.parts['exchange'] / phase.steps:.1f} ms",
            ),
            *(_duration(phase.seconds), f"{phase.parts[phase.bottleneck] / phase.seconds:.0%} {phase.bottleneck}"),
        ]
        for plan in plans
        for phase in plan.phases
    ]
    print_table([*right("hosts"), "phase", *right("steps", "a step", "exchange", "time"), "most of it"], rows)
    totals = [
        [
            *(str(plan.hosts.count), _duration(plan.seconds), *map(decimal, (plan.read, plan.disk, plan.memory))),
            *([f"{plan.cost(price):,.2f}"] if price else []),
        ]
        for plan in plans
    ]
    print_table(
        right("hosts", "in all", "from the bucket", "disk of each", "memory of each", *(["cost"] if price else [])),
        totals,
    )


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds; of less than a minute its tenths."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h" if minutes >= 60 else f"{minutes}:{rest:02d} min"


def print_runs(runs: Sequence["Summary"], now: float) -> None:
    """A line a run, with its age by the clock of where the runs lie."""
    from rich.table import Column

    titles = ("step", "val loss", "val accuracy", "test accuracy", "age")
    figures = [Column(title, justify="right", no_wrap=True) for title in titles]
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
    age = "-" if run.changed is None else _ago(now - run.changed)
    return [run.name, run.state, "-" if run.step is None else str(run.step), *figures, age]


def _ago(seconds: float) -> str:
    """How long something is past, in its largest unit; another clock than this one's may have dated it ahead."""
    if seconds < -_SKEW:
        return f"{_ago(-seconds)} ahead"
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
