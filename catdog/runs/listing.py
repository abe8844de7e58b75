"""The runs below a URI, and what each has come to, as its objects tell."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from catdog.errors import CallerError, RunError, one_line
from catdog.runs.folder import METRICS, MODEL, RECIPE, REPORT, committed, evaluated, recipe_of
from catdog.runs.metrics_file import METRICS_BYTES, Epoch, best_epoch, epochs, parse_metrics
from catdog.storage import Bucket, Unavailable
from catdog.storage.lease import LEASE, held

THREADS = 16
"""Runs that are looked into at a time."""

State = Literal["done", "evaluating", "trained", "running", "stopped", "begun", "unreadable"]


@dataclass(frozen=True)
class Summary:
    """What a run has come to; what is not known of it is None."""

    name: str
    """Its path below the URI that was searched, which itself is `.`."""
    state: State
    changed: float | None
    """When the newest of its objects was written, in seconds since the epoch."""
    step: int | None
    """Step of the newest committed checkpoint."""
    best: Epoch | None = None
    """The validation of the lowest loss."""
    test_accuracy: float | None = None
    """None, too, where every example is of one class, for then it says nothing."""
    fault: str = ""
    """Why it is unreadable, in one line."""


def find_runs(bucket: Bucket) -> list[Summary]:
    """All runs at and below a bucket's URI, the one that changed last first; a run is where a recipe.toml lies.

    Raises CallerError where the folder, the bucket or the right to read it is missing, and RunError when the store does
    not answer. What cannot be read of one run, or be looked at in a folder, is told in a summary of its own.
    """
    root = bucket.local("")
    if root is not None and not root.is_dir():
        raise CallerError(f"{bucket.uri}: no such folder")
    hidden: dict[str, str] = {}
    runs = by_run(bucket.times(faults=hidden))
    now = bucket.now()
    if "" in hidden:
        raise CallerError(f"{bucket.uri}: cannot be read: {hidden['']}")
    faults = _by_folder(hidden, runs)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda folder: _summary(bucket, folder, runs[folder], now, faults.get(folder, "")), runs)
        summaries = [summary for summary in found if summary is not None]
    summaries += [Summary(name, "unreadable", None, None, fault=faults[name]) for name in faults.keys() - runs]
    return sorted(summaries, key=lambda summary: (-(summary.changed or 0), summary.name))


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


def _by_folder(hidden: Mapping[str, str], runs: Mapping[str, object]) -> dict[str, str]:
    """Why something cannot be looked at, by the folder of the run that it is a part of, or else by its own name."""
    found: dict[str, str] = {}
    for name, reason in sorted(hidden.items()):
        folder, _, last = name.rpartition("/")
        own = folder if last == RECIPE else next((each for each in _folders(name) if each in runs), name)
        found.setdefault(own, reason if own == name else f"{name.removeprefix(f'{own}/')}: {reason}")
    return found


def _folders(name: str) -> Iterator[str]:
    """The folders that an object lies in, innermost first."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _summary(bucket: Bucket, folder: str, times: Mapping[str, float], now: float, fault: str) -> Summary | None:
    """A run from the objects that are listed and the small ones that are read; None when it has gone since."""
    run = replace(bucket, uri=f"{bucket.uri.rstrip('/')}/{folder}") if folder else bucket
    steps = committed(times)
    name, changed, step = folder or ".", max(times.values()), max(steps, default=None)
    if fault:
        return Summary(name, "unreadable", changed, step, fault=fault)
    try:
        if recipe_of(run) is None:
            return None
        metrics = run.find(METRICS, METRICS_BYTES) if METRICS in times else None
        best = best_epoch(epochs(parse_metrics(metrics or b"", f"{run.uri}/{METRICS}")))
        test = evaluated(run) if REPORT in times else None
        return Summary(name, _state(run, times, now), changed, step, best, test.accuracy if test else None)
    except Unavailable:
        raise
    except (CallerError, RunError, OSError) as error:
        return Summary(name, "unreadable", changed, step, fault=one_line(error))


def _state(run: Bucket, times: Mapping[str, float], now: float) -> State:
    if REPORT in times:
        return "done"
    running = LEASE in times and held(run, now - times[LEASE])
    if MODEL in times:
        return "evaluating" if running else "trained"
    if running:
        return "running"
    return "stopped" if committed(times) else "begun"
