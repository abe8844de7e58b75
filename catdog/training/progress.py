"""How far a run has come: its position, what is told of it, and when its state is saved."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from catdog.errors import FinalError, Stopped
from catdog.runs.folder import METRICS, Position
from catdog.runs.metrics_file import METRICS_BYTES, Line, kept_lines
from catdog.training.devices import devices, why_no_gpu
from catdog.training.log import MetricsLog
from catdog.training.running_metrics import RunningMetrics
from catdog.training.schedule import Span, span_after
from catdog.training.screen import Screen
from catdog.training.signals import StopRequest
from catdog.training.start import Start
from catdog.training.state import TrainingState
from catdog.training.step import Outcome

Report = Callable[[Line, int | None], None]
"""Told of each line of metrics, with the step of the last commit so far, which the chief alone knows."""


class Progress:
    """A run on its way from one position to the next. The chief's is written; that of another worker is only kept.

    A step here is the number of steps that are done. To be closed at the end, however that comes.
    """

    def __init__(self, start: Start, state: TrainingState, position: Position, report: Report, began: float) -> None:
        self.position = position
        self._began: float | None = began
        self._start = start
        self._state = state
        self._report = report
        self._recipe, self._per_epoch, self._plan = start.recipe, start.order.steps_per_epoch, start.plan
        self._saved_at, self._saved_step = time.monotonic(), start.newest
        self._log = MetricsLog(
            start.run if start.lease else None,
            kept_lines(
                start.run.find(METRICS, METRICS_BYTES) or b"",
                position.step,
                position.validated,
                f"{start.run.uri}/{METRICS}",
            ),
        )
        self.window = RunningMetrics(self._recipe.data.global_batch, position.window)
        total = self._plan[-1].stop
        self._screen = Screen(total, position.step, shown=start.group.chief)
        if start.group.chief:
            self._tell_devices(total)
        if start.newest is not None:
            self._screen.say(f"going on from step {start.newest} of {total}")

    def validation_due(self, step: int) -> bool:
        """Whether an epoch ends here that was not validated yet."""
        return step > 0 and step % self._per_epoch == 0 and self.position.validated < step

    def save_due(self, step: int) -> bool:
        """Whether to save the state now, beside the saves that come with a validation."""
        steps, seconds = self._recipe.checkpoint.every_steps, self._recipe.checkpoint.every_seconds
        return step > self.position.step and (
            (steps > 0 and step % steps == 0) or (seconds > 0 and time.monotonic() - self._saved_at >= seconds)
        )

    def validated(self, step: int, metrics: dict[str, float]) -> None:
        """Take in a validation, and save. Raises FinalError for a loss that is not finite."""
        if not math.isfinite(metrics["loss"]):
            raise FinalError(
                f"validation loss not finite after step {step}: the run stops and its last checkpoint is as it was;"
                " lower phases.learning_rate, or choose another run.precision"
            )
        self.position = replace(self.position, step=step, validated=step)
        if self.position.best_loss is None or metrics["loss"] < self.position.best_loss:
            self.position = replace(self.position, best_loss=metrics["loss"], best_step=step)
        self._show(step, "val", metrics)
        self._save()
        self.window.restart_clock()

    def save(self, step: int) -> None:
        """Save the state in the background. Raises FinalError for a step whose loss or gradient was not finite."""
        self.window.take_all()
        self.position = replace(self.position, step=step)
        self._save()

    def stepped(self, step: int, span: Span, outcome: Outcome) -> None:
        """Take in a step's outcome, and tell of the window that ends with it, if one does."""
        self.window.add(step, outcome)
        if self._began is not None:
            self._screen.say(f"first step after {time.monotonic() - self._began:.1f} s")
            self._began = None
        self._screen.step(step, span.phase.name)
        if step % self._recipe.run.log_every == 0 or step % self._per_epoch == 0:
            self.window.take_all()
            if not self.window.empty:
                numbers = self.window.close() | {"learning_rate": span.learning_rate(step - 1)}
                self._show(step, "train", numbers)

    def committed_stop(self, step: int, asked: StopRequest) -> Stopped:
        """What to raise after a request to stop, once the state of the last step is committed."""
        number = asked.signal or signal.SIGTERM  # another worker was asked to
        self._screen.say(f"{signal.Signals(number).name}: saving step {step}; a second one ends it without")
        self.window.take_all()
        if self._saved_step != step:  # else the state may be that of the next phase already
            self.save(step)
        self._start.checkpoints.wait()
        self._start.group.of_chief(0)  # the others wait for the chief to have committed
        return Stopped(number, step)

    def finish(self) -> int:
        """Wait until all is committed and written; the step of the best weights."""
        self._start.checkpoints.wait()
        if self._log.last is not None:
            self._report(self._log.last, self._start.checkpoints.newest)
        if self._start.lease:
            self._start.checkpoints.retain()
            for name, content in self._log.objects().items():
                self._start.run.write(name, content)
        if self.position.best_step is None:  # as no run of ours commits it
            raise FinalError(f"{self._start.run.uri}: its newest checkpoint names no best one; start a new run")
        return self.position.best_step

    def close(self) -> None:
        self._screen.close()
        self._log.close()

    def _tell_devices(self, total: int) -> None:
        replicas, workers = self._start.strategy.num_replicas_in_sync, self._start.group.workers
        on = f"{'' if workers == 1 else f'{workers} workers, the first with '}{devices(replicas // workers)}"
        self._screen.say(f"{total} steps on {on}, replicas: {replicas}, precision: {self._recipe.run.precision}")
        if told := why_no_gpu(self._recipe.run.strategy):
            self._screen.say(told)

    def _save(self) -> None:
        if self._start.lease:
            position = replace(self.position, window=self.window.sums())
            self._start.checkpoints.save(position, self._state.snapshot(), self._log.objects())
        self._saved_at, self._saved_step = time.monotonic(), self.position.step

    def _show(self, step: int, split: str, numbers: dict[str, Any]) -> None:
        phase = span_after(self._plan, step - 1).phase.name
        line: Line = {"step": step, "phase": phase, "epoch": round(step / self._per_epoch, 4), "split": split} | numbers
        line = self._log.add(line)
        self._screen.show(line)
        self._report(line, self._start.checkpoints.newest)
