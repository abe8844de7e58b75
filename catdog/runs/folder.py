"""The folder of a run: the names of what lies in it, the recipe that it was begun with, and its commits."""

import json
import re
import typing
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import tomli_w

from catdog import __version__
from catdog.data.shards import MANIFEST
from catdog.errors import CallerError, FinalError, RunError
from catdog.parsing import SMALL, brief, entry, is_version, parse_json, parse_toml
from catdog.recipe import VERSION_KEY, Recipe, parse_recipe
from catdog.storage import Bucket, Stat
from catdog.storage.lease import LEASE, is_lease

RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
REPORT = "report.html"
TENSORBOARD = "tensorboard"
COMMIT = "COMMITTED.json"
STATE = "state.npz"

_TABLES = {
    "data",
    "augment",
    "model",
    "optimizer",
    "loss",
    "checkpoint",
    "storage",
    "cache",
    "cluster",
    "run",
    "phases",
}
"""Of a recipe that catdog 0.1.0 wrote, which tells no version."""


@dataclass(frozen=True)
class Position:
    """Where a run stands, beside its arrays: plain values that JSON keeps exactly.

    Commits of earlier versions are read, so a field that comes later has a default, which means what was done before.
    """

    step: int
    """Optimizer steps done."""
    validated: int
    """Step of the last validation; 0 before the first."""
    best_loss: float | None
    """Lowest validation loss so far, and the step that it was reached at."""
    best_step: int | None
    window: dict[str, float]
    """Sums over the steps since the last line of metrics."""
    manifest: str
    """Digest of the data set's manifest."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Tables of the recipe; empty in a commit of catdog 0.1.0."""
    digest: str = ""
    """That of the recipe, in a commit of catdog 0.1.0."""
    weights: str = ""
    """SHA-256 of the backbone's weights that the run began with; empty in a commit of before they were told."""


class LaterCommit(FinalError):
    """A commit that holds what this version does not know."""


@dataclass(frozen=True)
class Commit:
    """What makes a checkpoint valid."""

    position: Position
    state: Stat
    """Size and crc32c of its state."""

    def to_json(self) -> bytes:
        files = [{"name": STATE, "size": self.state.size, "crc32c": self.state.crc32c}]
        content = {VERSION_KEY: __version__, "position": asdict(self.position), "files": files}
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def checkpoint_folder(step: int) -> str:
    """Where the files of a checkpoint lie in its run."""
    return f"{CHECKPOINTS}/step-{step:08d}"


def commit_name(step: int) -> str:
    """The object that a checkpoint is valid with."""
    return f"{checkpoint_folder(step)}/{COMMIT}"


def state_name(step: int) -> str:
    """The object that holds a checkpoint's arrays."""
    return f"{checkpoint_folder(step)}/{STATE}"


def checkpoint_files(names: Iterable[str]) -> dict[int, list[str]]:
    """The files of each checkpoint's folder, committed or not, by step, among the names of a run's objects."""
    found: dict[int, list[str]] = {}
    for name in names:
        if match := re.fullmatch(rf"{CHECKPOINTS}/step-([0-9]{{8}}|[1-9][0-9]{{8,17}})/(.+)", name):
            found.setdefault(int(match[1]), []).append(match[2])
    return found


def committed(names: Iterable[str]) -> list[int]:
    """Steps of the committed checkpoints among the names of a run's objects, ascending."""
    return sorted(step for step, files in checkpoint_files(names).items() if {COMMIT, STATE} <= {*files})


def read_commit(run: Bucket, step: int) -> Commit:
    """Raises FileNotFoundError where the step is not committed, FinalError for what is no commit of it, and LaterCommit for
    one that holds what this version does not know."""
    name = f"{run.uri}/{commit_name(step)}"
    content = run.read(commit_name(step), SMALL)
    try:
        commit = parse_json(content)
        position = dict(entry(commit, "position", dict))
        listed = [(entry(file, "name", str, "files."), file) for file in entry(commit, "files", list)]
        files = dict(listed)
        if isinstance(position.get("recipe"), str):  # written by catdog 0.1.0
            position["digest"] = position.pop("recipe")
        kinds = typing.get_type_hints(Position)
        known = {VERSION_KEY, "position", "files", *(f"position.{field}" for field in kinds), f"files.{STATE}"}
        there = {*commit, *(f"position.{field}" for field in position), *(f"files.{file}" for file in files)}
        version = commit.get(VERSION_KEY, __version__)
        if not is_version(version):
            raise ValueError(f"{VERSION_KEY} = {brief(version)}: must be a version, as in {__version__!r}")
        if (unknown := sorted(map(_plain, there - known))) and version != __version__:
            raise LaterCommit(
                f"{name}: {unknown[0]} is nothing that catdog {__version__} knows: the commit is of catdog {version};"
                " go on with that one"
            )
        if unknown:
            raise ValueError(f"it has {unknown[0]}")
        for each in fields(Position):
            if each.name in position or (each.default is MISSING and each.default_factory is MISSING):
                entry(position, each.name, kinds[each.name], "position.")
        if position["step"] != step:
            raise ValueError(f"position.step = {position['step']}: must be {step}")
        state = entry(files, STATE, dict, "files.")
        size, checksum = entry(state, "size", int, f"files.{STATE}."), entry(state, "crc32c", str, f"files.{STATE}.")
        return Commit(Position(**position), Stat(size, checksum))
    except ValueError as error:
        raise FinalError(
            f"{name}: is not the commit of a checkpoint: {error}; delete its folder to go on from the one before"
        ) from None


def _plain(name: str) -> str:
    """A name of an object's as it can be told on one line."""
    return name if re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) else brief(name)


def require_committed(name: str, found: Stat | None, expected: Stat) -> None:
    """Raise RunError that names an object which is not what was committed."""
    if found is None or (found.size, found.crc32c) != (expected.size, expected.crc32c):
        raise RunError(
            f"{name}: committed with {expected.size} bytes and crc32c {expected.crc32c}, found "
            f"{f'{found.size} bytes and {found.crc32c}' if found else 'nothing'};"
            " delete its folder to go on from the checkpoint before it"
        )


def evaluation(split: str, other: str = "") -> str:
    """Where the evaluation on a split lies; `other` is the digest of the data set when it is not the run's own."""
    return f"evaluation/{split}-{other[:8]}" if other else f"evaluation/{split}"


def evaluation_of(run: Bucket, split: str, digest: str, *, named: bool) -> str:
    """Where the evaluation on a split of the data set of this digest lies.

    The run's own data set is the one that its training ended with an evaluation on, and before that the recipe's, which
    is any that the caller has not `named` in its place.
    """
    own = evaluated(run)
    is_own = not named if own is None else own.digest == digest
    return evaluation(split, other="" if is_own else digest)


def written_by_a_run(name: str) -> bool:
    """Whether catdog writes an object of this name into a run, the lease apart."""
    if name in (RECIPE, METRICS, MODEL, REPORT) or name.startswith((evaluation(""), f"{TENSORBOARD}/")):
        return True
    return any({*files} <= {COMMIT, STATE} for files in checkpoint_files([name]).values())


def require_ours(run: Bucket) -> None:
    """Raise CallerError for a place with something that a run would replace or delete, and that no run of catdog has left,
    for that of a data set, which would be told from the run no more, and where what is no file or folder of a run's stands
    in their way."""
    if run.exists(MANIFEST):
        raise CallerError(f"{run.uri}: holds a data set: name another folder for the run")
    below = (f"{evaluation('test')}/metrics.json", commit_name(0), f"{TENSORBOARD}/events.out.tfevents")
    run.require_free([RECIPE, METRICS, MODEL, REPORT, LEASE, *below])
    if recipe_of(run) is not None:
        if not _written_whole(run.read(RECIPE, SMALL)) and not committed(run.list(f"{CHECKPOINTS}/")):
            raise CallerError(f"{run.uri}: its {RECIPE} was written by hand, not by a run: name another folder")
        return
    others = work_of_a_run(run)
    if (lease := run.find(LEASE)) is not None and not is_lease(lease):
        others.append(LEASE)
    if others:
        raise CallerError(f"{run.uri}: holds {others[0]} but no {RECIPE} that tells whose: name another folder")


def work_of_a_run(run: Bucket) -> list[str]:
    """What lies in a place that a run leaves once it has begun to train, by its first names."""
    found = [folder for folder in (CHECKPOINTS, "evaluation", TENSORBOARD) if run.list(f"{folder}/")]
    return found + [name for name in (METRICS, MODEL, REPORT) if run.exists(name)]


def _written_whole(recipe: bytes) -> bool:
    """Whether a recipe's file is one that a run wrote: with every table, as a program writes it, and not by a person."""
    table = parse_toml(recipe)
    return (VERSION_KEY in table or table.keys() >= _TABLES) and tomli_w.dumps(table).encode() == recipe


@dataclass(frozen=True)
class Evaluated:
    """What the evaluation on a run's test split came to."""

    digest: str
    """That of the data set's manifest."""
    accuracy: float | None
    """None where every example is of one class, for then it says nothing."""


def evaluated(run: Bucket) -> Evaluated | None:
    """The run's evaluation on its test split; None where it was not evaluated. Raises FinalError for what is none."""
    name = f"{evaluation('test')}/metrics.json"
    content = run.find(name, SMALL)
    if content is None:
        return None
    try:
        found = parse_json(content)
        digest = entry(entry(found, "data", dict), "digest", str, "data.")
        accuracy = entry(found, "accuracy", float)
        undefined = entry(found, "undefined", dict) if "undefined" in found else {}  # an earlier version's may lack it
        return Evaluated(digest, None if "balanced_accuracy" in undefined else accuracy)
    except ValueError as error:
        raise FinalError(
            f"{run.uri}/{name}: is not what an evaluation writes: {error}; delete it and evaluate the run again"
        ) from None


def recipe_of(run: Bucket) -> Recipe | None:
    """The recipe that a run was begun with; None where there is no run."""
    content = run.find(RECIPE, SMALL)
    return None if content is None else parse_recipe(content, f"{run.uri}/{RECIPE}", of_run=True)


def finished_recipe(run: Bucket) -> Recipe:
    """The recipe of a run that has its model; raises CallerError where there is no run or its training is not finished."""
    recipe = recipe_of(run)
    if recipe is None:
        run.list(RECIPE)  # tells of a bucket that is not there
        raise CallerError(f"{run.uri}: there is no run here (no {RECIPE}); give the folder that `catdog train` wrote")
    if not run.exists(MODEL):
        raise CallerError(f"{run.uri}: has no {MODEL}: run `catdog train` again to finish its training")
    return recipe
