"""Training state in a bucket: saved without stalling the loop, committed whole, restored, retained."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from catdog.errors import FinalError, one_line
from catdog.runs.folder import (
    CHECKPOINTS,
    Commit,
    Position,
    checkpoint_files,
    commit_name,
    committed,
    read_commit,
    require_committed,
    state_name,
    written_by_a_run,
)
from catdog.storage import Bucket, Changed, Stat, crc32c

PATIENCE = 10.0
"""Seconds that a save waits for the one before it; longer than a healthy store takes."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Snapshot:
    """All that a save writes."""

    position: Position
    arrays: Arrays
    beside: dict[str, bytes]


class Checkpoints:
    """The checkpoints of one run, written in order by one thread while the loop goes on.

    A checkpoint is a folder with the state, and is valid only with its COMMITTED.json, written last, which names each
    file's size and crc32c. The newest `keep` stay, and what was the best one when each of them was taken; an older one
    goes only after a newer is committed. A state is never written again, but a commit is when its step's position changes.
    `allowed` is called before anything is written or deleted, and raises when another process has the run.
    """

    def __init__(self, run: Bucket, keep: int, allowed: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._keep = keep
        self._allowed = allowed
        self._waiting: dict[int, _Snapshot] = {}
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._late = False
        self._writer: threading.Thread | None = None
        self.newest: int | None = None
        """Step of the last save that has been committed; None before the first."""

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        return committed(self._names())

    def save(self, position: Position, arrays: Arrays, beside: dict[str, bytes]) -> None:
        """Write a snapshot in the background, and before it is committed the objects of the run that go with it.

        Waits for the save before this one, but not long, and not again until one has come through: while the store does
        not answer, the newest snapshot and the best one are kept to be saved. Raises what a save before this one raised.
        """
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="checkpoint", daemon=True)
            self._writer.start()
        with self._changed:
            patience = 0.0 if self._late else PATIENCE
            self._late = not self._changed.wait_for(lambda: self._error or not self._waiting, patience)
            self.check()
            kept = {step: waiting for step, waiting in self._waiting.items() if step == position.best_step}
            self._waiting = kept | {position.step: _Snapshot(position, arrays, beside)}
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what a save has raised."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until all saves are committed; raises what one of them raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting)
        self.check()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread once it has written what waits, or failed to; after a Ctrl-C it is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._writer is not None and not isinstance(error, KeyboardInterrupt):
            self._writer.join()

    def restore(self, step: int) -> tuple[Position, Arrays]:
        """A committed checkpoint, each file checked; raises RunError that names a file which is not what was committed."""
        name, commit = state_name(step), self._commit_of(step)
        try:
            with self._run.reading(name) as path:
                require_committed(f"{self._run.uri}/{name}", Stat(path.stat().st_size, crc32c(path)), commit.state)
                return commit.position, _arrays(path, f"{self._run.uri}/{name}")
        except FileNotFoundError:
            require_committed(f"{self._run.uri}/{name}", None, commit.state)
            raise

    def position(self, step: int) -> Position:
        """Where the run stood at a committed checkpoint."""
        return self._commit_of(step).position

    def _commit_of(self, step: int) -> Commit:
        """Raises FinalError where it was deleted since it was listed, for no other process may do so."""
        try:
            return read_commit(self._run, step)
        except FileNotFoundError:
            raise FinalError(
                f"{self._run.uri}/{commit_name(step)}: was deleted while the run relied on it, and not by catdog"
            ) from None

    def let_best_say_so(self, step: int) -> None:
        """Give the best checkpoint as of a committed step a commit that says that it is the best.

        One that catdog 0.2.0 or earlier saved before its validation still names the best one before it.
        """
        now = self.position(step)
        if now.best_step is not None and now.best_step in self.steps():
            then = self.position(now.best_step)
            self._commit_anew(replace(then, validated=then.step, best_loss=now.best_loss, best_step=then.step))

    def retain(self) -> None:
        """Delete what is to be kept no longer; a process that was killed after its last commit has left that."""
        self._allowed()
        steps = self.steps()
        newest = steps[-self._keep :]
        kept = {*newest, *(self.position(step).best_step for step in newest)}
        # The last one first: a commit names no later step than its own, so what it names is there for as long as it is.
        for step in sorted(set(steps) - kept, reverse=True):
            self._delete(step)

    def sweep(self) -> None:
        """Remove what killed saves left behind: what they have written without a commit."""
        self._run.sweep(written_by_a_run)
        names = self._names()
        for step in checkpoint_files(names).keys() - {*committed(names)}:
            self._allowed()
            self._delete(step)

    def _names(self) -> list[str]:
        return self._run.list(f"{CHECKPOINTS}/")

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                snapshot = self._waiting[min(self._waiting)]
            try:
                self._write(snapshot)
            except Exception as error:
                self._error = error
            with self._changed:
                step = snapshot.position.step
                if self._waiting.get(step) is snapshot:
                    del self._waiting[step]
                if self._error is not None:
                    self._waiting.clear()
                self._changed.notify_all()

    def _write(self, snapshot: _Snapshot) -> None:
        self._allowed()
        for name, content in snapshot.beside.items():
            self._run.write(name, content)
        try:
            # A stop may have committed the step before its validation, which the resumed run has made up for.
            if snapshot.position.step in self.steps():
                self._commit_anew(snapshot.position)
            else:
                self._commit(snapshot)
        except (Changed, FileNotFoundError):  # a process that had lost the run came between, or swept ours away
            self._commit(snapshot)
        self.newest = snapshot.position.step
        self.retain()

    def _commit(self, snapshot: _Snapshot) -> None:
        """Replaces no other state: this process may lose its lease meanwhile, and the next one commit the same step."""
        step = snapshot.position.step
        self._allowed()
        self._delete(step)  # what a save that came to no commit has left
        with self._run.writing(state_name(step), new=True) as path:
            np.savez(path, allow_pickle=False, **snapshot.arrays)
            commit = Commit(snapshot.position, Stat(path.stat().st_size, crc32c(path)))
        self._allowed()
        self._run.swap(commit_name(step), commit.to_json(), None)

    def _commit_anew(self, position: Position) -> None:
        """Let a committed step stand at another position, with the state that it has; raises Changed as `swap` does."""
        name = commit_name(position.step)
        there = self._run.stat(name)  # before the commit is read, or it could be a later one's
        commit = read_commit(self._run, position.step)
        if commit.position != position:
            self._allowed()
            self._run.swap(name, replace(commit, position=position).to_json(), there)

    def _delete(self, step: int) -> None:
        """Delete a checkpoint's own files, and nothing that a person has put beside them."""
        # The commit goes first, so that a kill in between leaves no checkpoint that looks whole.
        for name in (commit_name(step), state_name(step)):
            self._run.delete(name)


def _arrays(path: Path, name: str) -> Arrays:
    """The arrays of a file that has the bytes which were committed; raises FinalError for one that somebody else made."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {array: stored[array] for array in stored.files}
    except Exception as error:  # NumPy and zipfile may raise anything on bytes that are no archive of arrays
        raise FinalError(
            f"{name}: is not the state of a checkpoint: {one_line(error)[:300]};"
            " delete its folder to go on from the one before"
        ) from None
