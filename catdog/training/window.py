"""Sums over the steps between two lines of metrics, kept exactly across a restart."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import tensorflow as tf

from catdog.errors import RunError
from catdog.training.step import Outcome


class Window:
    """Collects the steps' outcomes; they stay on the device until `take_all`, so the loop runs ahead of it."""

    def __init__(self, global_batch: int, sums: dict[str, float]) -> None:
        self._global_batch = global_batch
        self._sums: defaultdict[str, float] = defaultdict(float, sums)
        self._pending: list[tuple[int, Outcome]] = []
        self._timed, self._waited, self._began = 0, 0.0, time.perf_counter()
        self._first = False

    def sums(self) -> dict[str, float]:
        """What a checkpoint keeps of the window; pass it to the constructor to go on."""
        return dict(self._sums)

    def start_phase(self) -> None:
        """The next step compiles its graph, and is left out of the speed."""
        self._first = True
        self.restart_clock()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def add(self, step: int, outcome: Outcome) -> None:
        """Note what the step that makes `step` steps done gave."""
        self._pending.append((step, outcome))
        self._timed += self._global_batch
        if self._first:
            outcome["finite"].numpy()
            self._first = False
            self.restart_clock()

    def take_all(self, loss_scale: tf.Variable | None) -> None:
        """Bring the outcomes to the host; raises RunError that names the steps whose loss or gradient was not finite,
        which with a loss scale are just skipped as long as the scale can still go down."""
        bad = [step for step, outcome in self._pending if not outcome["finite"].numpy()]
        if bad and (loss_scale is None or loss_scale.numpy() <= 1.0):
            steps = ", ".join(map(str, bad))
            raise RunError(
                f"loss or gradient not finite at step {steps}: the run stops and its last checkpoint is as it was;"
                " lower phases.learning_rate, or look at the data of these steps"
            )
        for step, outcome in self._pending:
            if step in bad:
                self._sums["skipped"] += 1
                continue
            self._sums["loss"] += float(outcome["loss"].numpy())
            self._sums["correct"] += float(outcome["correct"].numpy())
            self._sums["examples"] += self._global_batch
        self._pending.clear()

    def close(self) -> dict[str, float]:
        """The line of metrics that ends the window, and an empty window."""
        seconds = time.perf_counter() - self._began
        examples = max(self._sums["examples"], 1)
        line: dict[str, float] = {
            "loss": self._sums["loss"] / examples,
            "accuracy": self._sums["correct"] / examples,
            "images_per_s": round(self._timed / seconds, 1),
            "data_wait": round(min(self._waited / seconds, 1.0), 4),
        }
        if self._sums["skipped"]:
            line["skipped"] = self._sums["skipped"]
        self._sums.clear()
        self.restart_clock()
        return line

    def restart_clock(self) -> None:
        """Leave what was done since the last step out of the speed."""
        self._timed, self._waited, self._began = 0, 0.0, time.perf_counter()
