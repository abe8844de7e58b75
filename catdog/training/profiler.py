"""Where the time of a run goes: the seconds of each phase, part by part, and a trace of a few of its steps."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from catdog.runs.folder import TENSORBOARD
from catdog.storage import Bucket

_BEFORE, _TRACED = 3, 5
"""Steps of a phase before those that are traced, so that what happens only once is over; and how many are traced."""


@dataclass
class PhaseProfile:
    """The time of a phase, as far as this process took steps of it."""

    name: str
    began: float
    seconds: dict[str, float]
    """By part: `start`, all until the first step is done; `data`, the wait for a batch; `host`, until a step is handed over
    to a GPU, and `device`, until it is done there, or `step` for both, which a CPU does itself; `validation` and
    `checkpoint`, as long as they hold the loop; and `other`."""
    steps: int = 0


Told = Callable[[list[PhaseProfile]], None]


class Profiler:
    """Times the phases of a run if somebody is to be `told`. Then each step is waited for, which costs some speed."""

    def __init__(self, run: Bucket | None, told: Told | None) -> None:
        """Traces go into the run, where there is one."""
        self._run, self._told = run, told
        self._phases: list[PhaseProfile] = []
        self._trace = contextlib.ExitStack()
        self._on_gpu = bool(tf.config.get_visible_devices("GPU"))

    def start_phase(self, name: str) -> None:
        self._end_phase()
        self._phases.append(PhaseProfile(name, time.perf_counter(), self._nothing_spent()))

    @contextlib.contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Count the time of the block to a part."""
        began = time.perf_counter()
        yield
        self._count(part, time.perf_counter() - began)

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The block takes the step that comes after so many."""
        if self._told is None:
            yield
            return
        phase = self._phases[-1]
        if phase.steps == _BEFORE and self._run is not None:
            self._trace.enter_context(_traced(self._run, step))
        with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
            yield
        if phase.steps == 0:
            phase.seconds = self._nothing_spent() | {"start": time.perf_counter() - phase.began}
        phase.steps += 1
        if phase.steps == _BEFORE + _TRACED:
            self._trace.close()

    def done(self, result: tf.Tensor) -> None:
        """Wait for the device to have this result of a step."""
        if self._told is not None:
            with self.spent("device"):
                result.numpy()

    def close(self) -> None:
        """Tell what there is to tell."""
        self._end_phase()
        if self._told is not None and self._phases:
            self._told(self._phases)

    def _count(self, part: str, seconds: float) -> None:
        if part in ("host", "device") and not self._on_gpu:
            part = "step"
        self._phases[-1].seconds[part] += seconds

    def _nothing_spent(self) -> dict[str, float]:
        of_a_step = ("host", "device") if self._on_gpu else ("step",)
        return dict.fromkeys(("start", "data", *of_a_step, "validation", "checkpoint", "other"), 0.0)

    def _end_phase(self) -> None:
        self._trace.close()
        if self._phases:
            phase = self._phases[-1]
            self._count("other", time.perf_counter() - phase.began - sum(phase.seconds.values()))


@contextlib.contextmanager
def _traced(run: Bucket, step: int) -> Iterator[None]:
    """Trace the block for TensorBoard's plugin `profile`, into the run."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            yield
        finally:
            tf.profiler.experimental.stop()
            for path in Path(folder).rglob("*.xplane.pb"):
                run.write(f"{TENSORBOARD}/plugins/profile/step-{step:08d}/{path.name}", path.read_bytes())
