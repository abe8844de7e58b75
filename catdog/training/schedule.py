"""Which phase a step belongs to, and its learning rate: pure functions of the step."""

import math
from dataclasses import dataclass

from catdog.errors import CallerError
from catdog.recipe import Phase


@dataclass(frozen=True)
class Span:
    """One phase's steps of the run: from `start` up to but not including `stop`."""

    phase: Phase
    start: int
    stop: int

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the phase's rate, then a half cosine towards 0 (Loshchilov and Hutter, 2017)."""
        done, total = step - self.start, self.stop - self.start
        warmup = round(self.phase.warmup * total)
        if done < warmup:
            return self.phase.learning_rate * (done + 1) / (warmup + 1)
        return self.phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup)))


def span_after(plan: tuple[Span, ...], step: int) -> Span:
    """The phase that the step after `step` done steps belongs to."""
    return next(span for span in plan if step < span.stop)


def spans(phases: tuple[Phase, ...], steps_per_epoch: int) -> tuple[Span, ...]:
    """The phases one after another, counted in steps from the start of the run.

    Raises CallerError for more of them than the devices count, with 32 bits.
    """
    result: list[Span] = []
    start = 0
    for phase in phases:
        stop = start + phase.epochs * steps_per_epoch
        result.append(Span(phase, start, stop))
        start = stop
    if start >= 2**31:
        raise CallerError(f"phases: their epochs are {start} steps: must be fewer than {2**31}")
    return tuple(result)
