"""Sums over the steps between two lines of metrics, kept exactly across a restart."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

from catdog.errors import FinalError
from catdog.training.step import Outcome


class RunningMetrics:
    """Collects the steps' outcomes; they stay on the device until `take_all`, so the loop runs ahead of it."""

    def __init__(self, global_batch: int, sums: dict[str, float]) -> None:
        self._global_batch = global_batch
        self._sums: defaultdict[str, float] = defaultdict(float, sums)
        self._pending: list[tuple[int, Outcome]] = []
        self._timed, self._waited, self._began = 0, 0.0, time.perf_counter()
        self._first = True

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

    def take_all(self) -> None:
        """Bring the outcomes to the host; raises FinalError that names the first step whose loss or gradient was not
        finite, which with a loss scale is just skipped as long as the scale can still go down."""
        bad = {step: outcome for step, outcome in self._pending if not outcome["finite"].numpy()}
        if fatal := [
            step for step, outcome in bad.items() if "scale" not in outcome or outcome["scale"].numpy() <= 1.0
        ]:
            raise FinalError(
                f"loss or gradient not finite at step {fatal[0]}: the run stops and its last checkpoint is as it was;"
                " lower phases.learning_rate, or look at the data of this step"
            )
        for step, outcome in self._pending:
            if step in bad:
                self._sums["skipped"] += 1
                continue
            self._sums["loss"] += float(outcome["loss"].numpy())
            self._sums["correct"] += float(outcome["correct"].numpy())
            self._sums["examples"] += self._global_batch
        self._pending.clear()

    @property
    def empty(self) -> bool:
        """Whether no step has counted yet; they may all have been skipped."""
        return not self._sums["examples"]

    def close(self) -> dict[str, float]:
        """The numbers for the line of metrics that ends the window, which is then empty; it must not be empty before.

        Speed and wait for data are left out where no step was timed.
        """
        seconds = time.perf_counter() - self._began
        examples = self._sums["examples"]
        line: dict[str, float] = {
            "loss": self._sums["loss"] / examples,
            "accuracy": self._sums["correct"] / examples,
        }
        if self._timed:
            line["images_per_s"] = round(self._timed / seconds, 1)
            line["data_wait"] = round(min(self._waited / seconds, 1.0), 4)
        if self._sums["skipped"]:
            line["skipped"] = self._sums["skipped"]
        self._sums.clear()
        self.restart_clock()
        return line

    def restart_clock(self) -> None:
        """Leave what was done since the last step out of the speed."""
        self._timed, self._waited, self._began = 0, 0.0, time.perf_counter()
