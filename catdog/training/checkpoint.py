"""Training state in a bucket: saved without stalling the loop, committed whole, restored, retained."""

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catdog.errors import RunError
from catdog.storage import Bucket, crc32c

COMMIT = "COMMITTED.json"
STATE = "state.npz"
METRICS = "metrics.jsonl"

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
        matches = (re.fullmatch(rf"checkpoints/step-(\d+)/{COMMIT}", name) for name in self._run.list("checkpoints/"))
        return sorted(int(match.group(1)) for match in matches if match)

    def save(self, position: Position, arrays: Arrays, metrics: bytes) -> None:
        """Write a snapshot, and the metrics up to it, in the background; waits for the save before this one, and
        raises what that one raised."""
        self.wait()
        self._pending = self._writer.submit(self._write, position, arrays, metrics)

    def wait(self) -> None:
        """Until the last save is committed; raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    def restore(self, step: int) -> tuple[Position, Arrays]:
        """A committed checkpoint, each file checked; raises RunError that names a file which is not what was committed."""
        folder = _folder(step)
        commit = json.loads(self._run.read(f"{folder}/{COMMIT}"))
        for file in commit["files"]:
            self._check(f"{folder}/{file['name']}", file)
        with np.load(self._run.path(f"{folder}/{STATE}"), allow_pickle=False) as stored:
            return Position(**commit["position"]), {name: stored[name] for name in stored.files}

    def position(self, step: int) -> Position:
        """Where the run stood at a committed checkpoint."""
        return Position(**json.loads(self._run.read(f"{_folder(step)}/{COMMIT}"))["position"])

    def sweep(self) -> None:
        """Remove what killed saves left behind: everything without a commit."""
        self._run.sweep()
        committed = {_folder(step) for step in self.steps()}
        root = self._run.path("checkpoints")
        for path in sorted(root.iterdir()) if root.is_dir() else []:
            if f"checkpoints/{path.name}" not in committed:
                self._run.delete_all(f"checkpoints/{path.name}")

    def _write(self, position: Position, arrays: Arrays, metrics: bytes) -> None:
        self._run.write(METRICS, metrics)
        folder = _folder(position.step)
        if position.step in self.steps():
            # The state of a step is always the same; only a validation may have come to it.
            files = json.loads(self._run.read(f"{folder}/{COMMIT}"))["files"]
        else:
            with self._run.writing(f"{folder}/{STATE}") as path:
                np.savez(path, allow_pickle=False, **arrays)
                files = [{"name": STATE, "size": path.stat().st_size, "crc32c": crc32c(path)}]
        self._run.write(f"{folder}/{COMMIT}", _json({"position": asdict(position), "files": files}))
        self._retain(position.best_step)

    def _retain(self, best: int | None) -> None:
        steps = self.steps()
        for step in steps[: -self._keep]:
            if step != best:
                # The commit goes first, so that a kill in between leaves no checkpoint that looks whole.
                self._run.delete(f"{_folder(step)}/{COMMIT}")
                self._run.delete_all(_folder(step))

    def _check(self, name: str, committed: dict[str, Any]) -> None:
        path: Path = self._run.path(name)
        found = (path.stat().st_size, crc32c(path)) if path.is_file() else None
        if found != (committed["size"], committed["crc32c"]):
            raise RunError(
                f"{path}: committed with {committed['size']} bytes and crc32c {committed['crc32c']}, found "
                f"{f'{found[0]} bytes and {found[1]}' if found else 'nothing'};"
                " delete its folder to go on from the checkpoint before it"
            )


def _folder(step: int) -> str:
    return f"checkpoints/step-{step:08d}"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
