"""Where the time of a run goes: the seconds of each phase, part by part, and a trace of a few of its steps."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import tensorflow as tf

from catdog.errors import RunError, Stopped, one_line
from catdog.runs.folder import TENSORBOARD
from catdog.storage import Bucket
from catdog.training.screen import say

_BEFORE, _TRACED = 3, 5
"""Steps of a phase before those that are traced, so that what happens only once is over; and how many are traced."""


@dataclass
class PhaseProfile:
    """The time of a phase, as far as this process took steps of it."""

    name: str
    began: float
    seconds: dict[str, float]
    """By part: `start`, all until the first step is done; `data`, until a batch is there, whose stored outputs may have to
    be computed; `host`, until a step is handed over to a GPU, and `device`, until it is done there, or `step` for both,
    which a CPU does itself; `validation` and `checkpoint`, as long as they hold the loop; and `other`."""
    steps: int = 0


Told = Callable[[list[PhaseProfile]], None]


class Profiler:
    """Times the phases of a run if somebody is to be `told`, and traces some steps of each. Then each step is waited for,
    which costs some speed.

    Where its block ends with the run's state committed, the traces are written into the run.
    """

    def __init__(self, run: Bucket, told: Told | None) -> None:
        self._run, self._told = run, told
        self._phases: list[PhaseProfile] = []
        self._tracing = contextlib.ExitStack()
        self._traces: dict[str, bytes] = {}
        self._on_gpu = bool(tf.config.get_visible_devices("GPU"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end_phase()
        if self._told is None or not self._phases:
            return
        if kind is None or issubclass(kind, Stopped):
            try:
                for name, content in self._traces.items():
                    self._run.write(name, content)
            except (OSError, RunError) as error:
                say(f"the traces are not kept: {one_line(error)}")
        self._told(self._phases)

    def start_phase(self, name: str) -> None:
        self._end_phase()
        self._phases.append(PhaseProfile(name, time.perf_counter(), self._nothing_spent()))

    @contextlib.contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Count the time of the block to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._count(part, time.perf_counter() - began)

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The block takes the step that comes after so many."""
        if self._told is None:
            yield
            return
        phase = self._phases[-1]
        if phase.steps == _BEFORE:
            self._tracing.enter_context(self._trace(step))
        with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
            yield
        if phase.steps == 0:
            phase.seconds = self._nothing_spent() | {"start": time.perf_counter() - phase.began}
        phase.steps += 1
        if phase.steps == _BEFORE + _TRACED:
            self._tracing.close()

    def done(self, result: tf.Tensor) -> None:
        """Wait for the device to have this result of a step."""
        if self._told is not None:
            with self.spent("device"):
                result.numpy()

    def _count(self, part: str, seconds: float) -> None:
        if part in ("host", "device") and not self._on_gpu:
            part = "step"
        self._phases[-1].seconds[part] += seconds

    def _nothing_spent(self) -> dict[str, float]:
        of_a_step = ("host", "device") if self._on_gpu else ("step",)
        return dict.fromkeys(("start", "data", *of_a_step, "validation", "checkpoint", "other"), 0.0)

    def _end_phase(self) -> None:
        self._tracing.close()
        if self._phases:
            phase = self._phases[-1]
            self._count("other", time.perf_counter() - phase.began - sum(phase.seconds.values()))

    @contextlib.contextmanager
    def _trace(self, step: int) -> Iterator[None]:
        """Trace the block; one that cannot be traced is taken all the same."""
        with contextlib.ExitStack() as closing:
            try:
                folder = closing.enter_context(tempfile.TemporaryDirectory())
                tf.profiler.experimental.start(folder)
            except (OSError, tf.errors.OpError) as error:
                say(f"step {step} cannot be traced: {one_line(error)}")
                yield
                return
            yield
            try:
                tf.profiler.experimental.stop()
                for path in Path(folder).rglob("*.xplane.pb"):
                    name = f"{TENSORBOARD}/plugins/profile/step-{step:08d}/{path.name}"
                    self._traces[name] = path.read_bytes()
            except (OSError, tf.errors.OpError) as error:
                say(f"step {step} cannot be traced: {one_line(error)}")
