"""The run's numbers: metrics.jsonl and TensorBoard, at the same points."""

import json
import tempfile
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from catdog.runs.folder import METRICS, TENSORBOARD
from catdog.runs.metrics_file import Line
from catdog.storage import Bucket


class MetricsLog:
    """The lines of metrics.jsonl, as a run has written them so far, with TensorBoard's event file beside them.

    The event file is written anew from the kept lines, so that neither of the two shows a step twice after a restart.
    It grows in the run's folder, where TensorBoard follows it, or else is one of the `objects` to be written there.
    """

    def __init__(self, run: Bucket | None, lines: list[Line]) -> None:
        self._lines = lines
        self._in_place = run.local(TENSORBOARD) if run is not None else None
        self._temporary = None if self._in_place else tempfile.TemporaryDirectory()
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
        if self._temporary:
            self._temporary.cleanup()

    def _add_event(self, line: Line) -> None:
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k not in ("step", "time")}
        values = [Summary.Value(tag=f"{line['split']}/{name}", simple_value=v) for name, v in numbers.items()]
        self._events.add_event(Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values)))
