"""The run's numbers: metrics.jsonl and TensorBoard, at the same points."""

import contextlib
import itertools
import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from catdog.errors import naming
from catdog.runs.folder import METRICS, TENSORBOARD
from catdog.runs.metrics_file import Line
from catdog.storage import Bucket

_SUFFIX = ".catdog"
"""Ends the name of an event file, so that those of other programs are known from it."""


class MetricsLog:
    """The lines of metrics.jsonl, as a run has written them so far, with TensorBoard's event file beside them.

    The event file is written anew from the kept lines, so that neither of the two shows a step twice after a restart.
    It grows in the run's folder, where TensorBoard follows it, or else is one of the `objects` to be written there.
    """

    def __init__(self, run: Bucket | None, lines: list[Line]) -> None:
        self._lines = lines
        self._in_place = run.local(TENSORBOARD) if run is not None else None
        self._closing = contextlib.ExitStack()
        folder = self._in_place or Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
        for stale in folder.glob("events.*"):
            if stale.name.endswith(_SUFFIX) or _tells_of(stale, lines):
                stale.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        # Not TensorBoard's EventFileWriter, whose thread tells of a full disk in a traceback.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}{_SUFFIX}"
        self._path = folder / name
        self._file = self._closing.enter_context(self._path.open("wb"))
        self._write_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
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
        return {METRICS: content, f"{TENSORBOARD}/events.out.tfevents": self._path.read_bytes()}

    def close(self) -> None:
        with naming(self._path):
            self._closing.close()

    def _add_event(self, line: Line) -> None:
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k not in ("step", "time")}
        values = [Summary.Value(tag=f"{line['split']}/{name}", simple_value=v) for name, v in numbers.items()]
        self._write_event(Event(wall_time=line.get("time", 0.0), step=line["step"], summary=Summary(value=values)))

    def _write_event(self, event: Event) -> None:
        with naming(self._path):
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()


def _tells_of(events: Path, lines: Sequence[Line]) -> bool:
    """Whether an event file begins with one of these lines, and so is that of an earlier version or of a pull."""
    told = {(line["step"], line.get("time")) for line in lines}
    try:
        first = [*itertools.islice(EventFileLoader(str(events)).Load(), 1, 2)]  # after the one that tells the format
    except Exception:  # other programs' bytes fail to be read in too many ways to name
        return False
    return any((event.step, event.wall_time) in told for event in first)
