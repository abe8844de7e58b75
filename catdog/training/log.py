"""The run's numbers: metrics.jsonl, TensorBoard and the screen, all at the same points."""

import json
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from catdog.evaluation.history import Line, parse
from catdog.run import METRICS, TENSORBOARD
from catdog.storage import Bucket


class MetricsLog:
    """The lines of metrics.jsonl, as a run has written them so far, with TensorBoard's event file beside them.

    The event file is written anew from the kept lines, so that neither of the two shows a step twice after a restart.
    It grows in the run's folder, where TensorBoard follows it, or else is one of the `objects` to be written there.
    """

    def __init__(self, run: Bucket | None, lines: list[Line]) -> None:
        self._lines = lines
        self._in_place = run.local(TENSORBOARD) if run is not None else None
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = self._in_place or Path(self._temporary.name)
        for stale in self._folder.glob("events.*"):
            stale.unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._events = EventFileWriter(str(self._folder))
        for line in lines:
            self._add_event(line)

    @property
    def last(self) -> Line | None:
        """The line that was added last."""
        return self._lines[-1] if self._lines else None

    def add(self, line: Line) -> Line:
        """Note a line, stamped with the time, and give it back."""
        line = line | {"time": round(time.time(), 3)}
        self._lines.append(line)
        self._add_event(line)
        return line

    def objects(self) -> dict[str, bytes]:
        """The objects of the run that hold all lines so far."""
        content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self._lines).encode()
        if self._in_place:
            return {METRICS: content}
        self._events.flush()
        (events,) = self._folder.glob("events.*")
        return {METRICS: content, f"{TENSORBOARD}/events.out.tfevents": events.read_bytes()}

    def close(self) -> None:
        self._events.close()
        self._temporary.cleanup()

    def _add_event(self, line: Line) -> None:
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k not in ("step", "time")}
        values = [Summary.Value(tag=f"{line['split']}/{name}", simple_value=v) for name, v in numbers.items()]
        self._events.add_event(Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values)))


def kept_lines(content: bytes, step: int, validated: int) -> list[Line]:
    """The lines of metrics.jsonl that a run which goes on from `step` has behind it."""
    return [line for line in parse(content) if line["step"] <= (validated if line["split"] == "val" else step)]


def say(text: str) -> None:
    """Tell the person who waits."""
    Console(stderr=True, highlight=False).print(text, soft_wrap=True, markup=False)


class Screen:
    """What a person sees of the run: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, done: int, *, shown: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=not shown)
        self._live = self._console.is_terminal
        self._started, self._start_step, self._total = time.monotonic(), done, total
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=total, completed=done, numbers="")
        self._progress.start()

    def step(self, done: int, phase: str) -> None:
        self._progress.update(self._task, completed=done, description=phase)

    def show(self, line: Line) -> None:
        """Show a line of metrics."""
        if self._live and line["split"] == "train":
            self._progress.update(self._task, numbers=_numbers(line))
        else:
            self.say(
                f"step {line['step']}/{self._total} {line['phase']} {line['split']} {_numbers(line)}{self._left(line)}"
            )

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def close(self) -> None:
        self._progress.stop()

    def _left(self, line: Line) -> str:
        done = line["step"] - self._start_step
        if line["split"] != "train" or done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._total - line["step"])
        return f", {int(seconds) // 60}:{int(seconds) % 60:02d} left"


def _numbers(line: Line) -> str:
    text = f"loss {line['loss']:.4f}, accuracy {line['accuracy']:.3f}"
    if "images_per_s" in line:
        text += f", {line['images_per_s']:.0f} images/s, {line['data_wait']:.0%} waiting for data"
    return text
