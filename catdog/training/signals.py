"""SIGTERM and Ctrl-C, noted for the loop to act on between two steps."""

import signal
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was asked to stop and its state is committed; run it again and it goes on from `step`."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}, which is committed")
        self.number = number
        self.step = step


class StopRequest:
    """Inside its block `signal` tells which of SIGTERM and SIGINT came, or None; a second one acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
