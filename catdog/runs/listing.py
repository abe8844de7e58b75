"""The runs below a URI, and what each has come to, as its objects tell."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from catdog.errors import CallerError, one_line
from catdog.recipe import parse_recipe
from catdog.runs.folder import METRICS, MODEL, RECIPE, REPORT, committed, evaluation
from catdog.runs.lease import LEASE, held
from catdog.runs.metrics_file import Epoch, best_epoch, epochs, parse_metrics
from catdog.storage import Bucket

THREADS = 16
"""Runs that are looked into at a time."""

State = Literal["done", "evaluating", "trained", "running", "stopped", "begun", "unreadable"]

_TESTED = f"{evaluation('test')}/metrics.json"


@dataclass(frozen=True)
class Summary:
    """What a run has come to; what is not known of it is None."""

    name: str
    """Its path below the URI that was searched, which itself is `.`."""
    state: State
    changed: float
    """When the newest of its objects was written, in seconds since the epoch."""
    step: int | None
    """Step of the newest committed checkpoint."""
    best: Epoch | None = None
    """The validation of the lowest loss."""
    test_accuracy: float | None = None
    fault: str = ""
    """Why it is unreadable, in one line."""


def find_runs(bucket: Bucket) -> list[Summary]:
    """All runs at and below a bucket's URI, the one that changed last first; a run is where a recipe.toml lies.

    Raises CallerError where the folder, the bucket or the right to read it is missing, and RunError when the store does
    not answer. A recipe or figures that cannot be read are told in the run's own summary.
    """
    root = bucket.local("")
    if root is not None and not root.is_dir():
        raise CallerError(f"{bucket.uri}: no such folder")
    runs = by_run(bucket.times())
    now = bucket.now()
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda folder: _summary(bucket, folder, runs[folder], now), runs)
        return sorted(filter(None, found), key=lambda summary: (-summary.changed, summary.name))


def by_run(times: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The objects of each run, by its folder, out of all objects; one belongs to the innermost run that it lies in."""
    runs: dict[str, dict[str, float]] = {}
    for name in times:
        folder, _, last = name.rpartition("/")
        if last == RECIPE:
            runs[folder] = {}
    for name, written in times.items():
        for folder in _folders(name):
            if folder in runs:
                runs[folder][name.removeprefix(f"{folder}/")] = written
                break
    return runs


def _folders(name: str) -> Iterator[str]:
    """The folders that an object lies in, innermost first."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _summary(bucket: Bucket, folder: str, times: Mapping[str, float], now: float) -> Summary | None:
    """A run from the objects that are listed and the small ones that are read; None when it has gone since."""
    run = replace(bucket, uri=f"{bucket.uri.rstrip('/')}/{folder}") if folder else bucket
    steps = committed(times)
    name, changed, step = folder or ".", max(times.values()), max(steps, default=None)
    recipe = run.find(RECIPE)
    if recipe is None:
        return None
    metrics = run.find(METRICS) if METRICS in times else None
    tested = run.find(_TESTED) if REPORT in times else None
    try:
        parse_recipe(recipe, RECIPE, of_run=True)
        best = best_epoch(epochs(parse_metrics(metrics or b"")))
        accuracy = float(json.loads(tested)["accuracy"]) if tested else None
    except (CallerError, ValueError, KeyError, TypeError) as error:
        return Summary(name, "unreadable", changed, step, fault=one_line(error))
    return Summary(name, _state(run, times, now), changed, step, best, accuracy)


def _state(run: Bucket, times: Mapping[str, float], now: float) -> State:
    if REPORT in times:
        return "done"
    running = LEASE in times and held(run, now - times[LEASE])
    if MODEL in times:
        return "evaluating" if running else "trained"
    if running:
        return "running"
    return "stopped" if committed(times) else "begun"
