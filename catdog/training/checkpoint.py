"""Training state in a bucket: saved without stalling the loop, committed whole, restored, retained."""

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from catdog.errors import RunError
from catdog.run import CHECKPOINTS
from catdog.storage import Bucket, Stat, crc32c

COMMIT = "COMMITTED.json"
STATE = "state.npz"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Position:
    """Where a run stands, beside its arrays: plain numbers that JSON keeps exactly."""

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


class Checkpoints:
    """The checkpoints of one run, written in order by one thread while the loop goes on.

    A checkpoint is a folder with the state, and is valid only with its COMMITTED.json, written last, which names each
    file's size and crc32c. The newest `keep` and the best one stay; an older one goes only after a newer is committed.
    """

    def __init__(self, run: Bucket, keep: int) -> None:
        self._run = run
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        return sorted(step for step, files in self._files().items() if COMMIT in files)

    def save(self, position: Position, arrays: Arrays, beside: dict[str, bytes]) -> None:
        """Write a snapshot in the background, and before it is committed the objects of the run that go with it; waits
        for the save before this one, and raises what that one raised."""
        self.wait()
        self._pending = self._writer.submit(self._write, position, arrays, beside)

    def wait(self) -> None:
        """Until the last save is committed; raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    def restore(self, step: int) -> tuple[Position, Arrays]:
        """A committed checkpoint, each file checked; raises RunError that names a file which is not what was committed."""
        name = f"{_folder(step)}/{STATE}"
        commit = json.loads(self._run.read(f"{_folder(step)}/{COMMIT}"))
        (file,) = commit["files"]
        committed = Stat(file["size"], file["crc32c"])
        try:
            with self._run.reading(name) as path:
                _require(f"{self._run.uri}/{name}", Stat(path.stat().st_size, crc32c(path)), committed)
                with np.load(path, allow_pickle=False) as stored:
                    return Position(**commit["position"]), {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            _require(f"{self._run.uri}/{name}", None, committed)
            raise

    def position(self, step: int) -> Position:
        """Where the run stood at a committed checkpoint."""
        return Position(**json.loads(self._run.read(f"{_folder(step)}/{COMMIT}"))["position"])

    def sweep(self) -> None:
        """Remove what killed saves left behind: everything without a commit."""
        self._run.sweep()
        for step, files in self._files().items():
            if COMMIT not in files:
                self._run.delete_all(_folder(step))

    def _files(self) -> dict[int, list[str]]:
        """The files of each step's folder, by step."""
        found: dict[int, list[str]] = {}
        for name in self._run.list(f"{CHECKPOINTS}/"):
            if match := re.fullmatch(rf"{CHECKPOINTS}/step-(\d{{8,}})/(.+)", name):
                found.setdefault(int(match[1]), []).append(match[2])
        return found

    def _write(self, position: Position, arrays: Arrays, beside: dict[str, bytes]) -> None:
        for name, content in beside.items():
            self._run.write(name, content)
        folder = _folder(position.step)
        if position.step in self.steps():
            return  # what is committed is never written again: a validation that has come to it since can be repeated
        with self._run.writing(f"{folder}/{STATE}") as path:
            np.savez(path, allow_pickle=False, **arrays)
            files = [{"name": STATE, "size": path.stat().st_size, "crc32c": crc32c(path)}]
        self._run.swap(f"{folder}/{COMMIT}", _json({"position": asdict(position), "files": files}), None)
        self._retain(position.best_step)

    def _retain(self, best: int | None) -> None:
        steps = self.steps()
        for step in steps[: -self._keep]:
            if step != best:
                # The commit goes first, so that a kill in between leaves no checkpoint that looks whole.
                self._run.delete(f"{_folder(step)}/{COMMIT}")
                self._run.delete_all(_folder(step))


def _require(name: str, found: Stat | None, committed: Stat) -> None:
    if found != committed:
        raise RunError(
            f"{name}: committed with {committed.size} bytes and crc32c {committed.crc32c}, found "
            f"{f'{found.size} bytes and {found.crc32c}' if found else 'nothing'};"
            " delete its folder to go on from the checkpoint before it"
        )


def _folder(step: int) -> str:
    return f"{CHECKPOINTS}/step-{step:08d}"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
