"""A run brought to a folder of this machine: each file whole, and only those that are not there yet."""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from catdog.errors import CallerError, RunError, tell
from catdog.recipe import Recipe, differences
from catdog.runs.folder import (
    CHECKPOINTS,
    COMMIT,
    METRICS,
    MODEL,
    RECIPE,
    REPORT,
    TENSORBOARD,
    Commit,
    LaterCommit,
    commit_name,
    committed,
    evaluated,
    evaluation,
    read_commit,
    recipe_of,
    require_committed,
    require_ours,
    state_name,
)
from catdog.storage import Bucket, Folder, Stat, Unavailable, crc32c
from catdog.storage.lease import in_training

THREADS = 8
"""Files that are fetched at a time."""
TRIES = 3
"""Times that a file is fetched which the run writes anew meanwhile."""

_FILES = (RECIPE, METRICS, MODEL, REPORT)
_FOLDERS = (evaluation(""), f"{TENSORBOARD}/")

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Pulled:
    """What a pull has brought."""

    step: int
    """Of the checkpoint that was asked for."""
    best: int | None
    """Step of the best checkpoint when that one was taken, which is brought too; None where none was validated yet."""
    newest: int
    """Of the checkpoints that are in the folder now; `train` goes on from there."""
    files: int
    """Files of the run, and how many of them were there already."""
    there: int
    size: int
    """Bytes of those that were not."""


def pull(run: Bucket, folder: Folder, which: str) -> Pulled:
    """Bring a run with its `best` or `last` checkpoint, or that of a step, to a folder, which is then a run itself.

    A checkpoint's commit comes last, so a pull that was broken off leaves none that looks whole, and the next one
    brings the rest. Raises CallerError where there is no run or no such checkpoint, and where the folder holds files
    of something else, another run, one that is being trained, or this one gone further; the folder is then as it was.
    Raises RunError when an object is not what it should be or is deleted meanwhile, and when the store does not answer.
    """
    if not re.fullmatch("best|last|[0-9]{1,18}", which):
        raise CallerError(f"--which {which[:100]}: must be best, last or the step of a checkpoint")
    source = run.local("")
    if source is not None and Path(os.path.realpath(source)) in Path(os.path.realpath(folder.local(""))).parents:
        raise CallerError(f"{folder.uri}: lies in {run.uri} itself: pull into a folder outside of it")
    recipe = recipe_of(run)
    if recipe is None:
        raise CallerError(f"{run.uri}: there is no run here (no {RECIPE}); `catdog runs` lists those below a URI")
    try:
        names = run.list()
        commits = _commits(run, which, committed(names))
        _check_folder(folder, run, recipe, commits[0], max(committed(names)))
        wanted = _wanted(run, names, commits)
        folder.require_free(wanted)
        missing = _missing(folder, wanted, commits)
        folder.sweep(wanted.__contains__)
        _fetch_missing(run, folder, missing, commits)
    except FileNotFoundError as error:
        gone = error.filename or error
        raise RunError(f"{gone}: was deleted while the run was pulled, as a run in training does; pull again") from None
    return Pulled(
        step=commits[0].position.step,
        best=commits[0].position.best_step,
        newest=max(_committed_in(folder)),
        files=len(wanted),
        there=len(wanted) - len(missing),
        size=sum(stat.size for stat in missing.values()),
    )


def _commits(run: Bucket, which: str, steps: Sequence[int]) -> list[Commit]:
    """The commit of the checkpoint that is asked for, and of the best one at its time where that is another."""
    if not steps:
        if run.exists(MODEL):
            raise CallerError(
                f"{run.uri}: its checkpoints are gone; copy {MODEL}, {REPORT} and what else of it is of use by hand"
            )
        raise CallerError(f"{run.uri}: no checkpoint is committed yet; pull when there is one")
    step: int | None = steps[-1] if which in ("best", "last") else int(which)
    if which == "best":
        step = read_commit(run, steps[-1]).position.best_step
    if step is None:
        raise CallerError(f"{run.uri}: nothing is validated yet, so no checkpoint is the best; give --which last")
    there = ", ".join(map(str, steps))
    if step not in steps:
        raise CallerError(f"{run.uri}: step {step} is not committed; --which may be best, last or one of {there}")
    commit = read_commit(run, step)
    best = commit.position.best_step
    if best is None or best == step:
        return [commit]
    if best not in steps:
        raise CallerError(
            f"{run.uri}: training could not go on from step {step}, for the best checkpoint before it, of step {best},"
            f" is gone; --which may be last or another one of {there}"
        )
    return [commit, read_commit(run, best)]


def _check_folder(folder: Folder, run: Bucket, recipe: Recipe, commit: Commit, newest: int) -> None:
    """Raise CallerError where the folder holds what must not be written over."""
    require_ours(folder)
    before = recipe_of(folder)
    if before is None:
        return
    ours = _committed_in(folder)
    different = differences(before, recipe)
    own = evaluated(folder)
    manifest = _manifest(folder, ours[-1]) if ours else own.digest if own is not None else None
    if manifest is not None and manifest != commit.position.manifest:
        different.append(f"the data set's manifest: {manifest[:12]} → {commit.position.manifest[:12]}")
    if manifest is None and not ours and (model := folder.stat(MODEL)) is not None:
        found = run.stat(MODEL)
        if found is None or (found.size, found.crc32c) != (model.size, model.crc32c):
            different.append(f"its {MODEL}, and nothing tells what that was trained on")
    if different:
        raise CallerError(f"{folder.uri}: holds a run that differs in {'; '.join(different)}: pull into another folder")
    if in_training(folder, lambda text: tell(text, file=sys.stderr)):
        raise CallerError(f"{folder.uri}: is being trained: stop that, or pull into another folder")
    if ours and ours[-1] > newest:
        raise CallerError(
            f"{folder.uri}: has gone on to step {ours[-1]}, and {run.uri} only to step {newest}: pull into another folder"
        )


def _manifest(folder: Folder, step: int) -> str | None:
    """Digest of the data set that a checkpoint was trained on; None where its commit is spoilt, to be brought anew."""
    try:
        return read_commit(folder, step).position.manifest
    except LaterCommit:
        raise
    except RunError:
        return None


def _wanted(run: Bucket, names: Sequence[str], commits: Sequence[Commit]) -> dict[str, Stat]:
    """The objects to bring, each as it has to come."""
    plain = [name for name in names if name in _FILES or name.startswith(_FOLDERS)]
    vouching = [commit_name(commit.position.step) for commit in commits]
    files = {state_name(commit.position.step): commit.state for commit in commits}
    # A checkpoint's commit is deleted first, so it is looked for last: a file that is gone before it is lost.
    found = run.stats([name for name in (*plain, *files, *vouching) if _stays_inside(name)])
    for name in vouching:
        if name not in found:
            raise FileNotFoundError(f"{run.uri}/{name}")
    for name, expected in files.items():
        require_committed(f"{run.uri}/{name}", found.get(name), expected)
        found[name] = replace(found[name], crc32c=expected.crc32c)
    return found


def _stays_inside(name: str) -> bool:
    """Whether an object's name is a file's path that does not lead out of the folder; the store takes any text."""
    return not {"", ".", ".."} & set(name.split("/")) and "\0" not in name


def _missing(folder: Folder, wanted: Mapping[str, Stat], commits: Sequence[Commit]) -> dict[str, Stat]:
    """What is not there as it has to be. A checkpoint that lacks a file is one no more, until its commit comes anew."""
    with ThreadPoolExecutor(THREADS) as pool:
        there = dict(zip(wanted, pool.map(lambda name: _is_there(folder, name, wanted[name]), wanted), strict=True))
    for commit in commits:
        name, state = commit_name(commit.position.step), state_name(commit.position.step)
        if not (there[state] and there[name]):
            folder.delete(name)
            there[name] = False
            there[state] = there[state] and folder.exists(state)  # which has gone too, where its folder is a link
    return {name: stat for name, stat in wanted.items() if not there[name]}


def _is_there(folder: Folder, name: str, stat: Stat) -> bool:
    path = folder.local(name)
    return path.is_file() and path.stat().st_size == stat.size and crc32c(path) == stat.crc32c


def _fetch_missing(run: Bucket, folder: Folder, missing: Mapping[str, Stat], commits: Sequence[Commit]) -> None:
    """First the recipe, which tells whose the folder is; last the commits, that of the best checkpoint before others."""
    vouching = [commit_name(step) for step in sorted(commit.position.step for commit in commits)]
    others = [name for name in missing if name not in (RECIPE, *vouching)]
    with _bar(sum(stat.size for stat in missing.values())) as tell:
        for names in ([RECIPE], others, *([name] for name in vouching)):
            _fetch_all(run, folder, {name: missing[name] for name in names if name in missing}, tell)


class _Over(Exception):
    """What ends a fetch that nobody waits for any more."""


def _fetch_all(run: Bucket, folder: Folder, files: Mapping[str, Stat], tell: Tell) -> None:
    """Fetch files at a time; when one fails, or on Ctrl-C, the others are given up."""
    over = threading.Event()

    def tell_or_end(count: int) -> None:
        if over.is_set():
            raise _Over
        tell(count)

    with ThreadPoolExecutor(THREADS) as pool:
        fetches = [pool.submit(_fetch, run, folder, name, stat, tell_or_end) for name, stat in files.items()]
        try:
            for fetch in as_completed(fetches):
                fetch.result()
        except BaseException:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(run: Bucket, folder: Folder, name: str, stat: Stat, tell: Tell) -> None:
    """Fetch a file; a run in training may write all but its checkpoints anew, and then the new one is brought."""
    for left in reversed(range(TRIES)):
        try:
            with folder.writing(name) as path:
                return run.fetch(name, stat, path, tell)
        except Unavailable:
            raise
        except RunError:
            now = run.stat(name)
            if now is None:
                raise FileNotFoundError(f"{run.uri}/{name}") from None
            if now != stat and name.endswith(f"/{COMMIT}"):
                raise RunError(f"{run.uri}/{name}: was written anew while the run was pulled; pull again") from None
            if not left or now == stat or name.startswith(f"{CHECKPOINTS}/"):
                raise
            stat = now


def _committed_in(folder: Folder) -> list[int]:
    return committed(folder.list(f"{CHECKPOINTS}/"))


@contextmanager
def _bar(total: int) -> Iterator[Tell]:
    """A bar in bytes on a terminal, to be told of those that come."""
    console = Console(stderr=True)
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)
