"""SIGTERM and Ctrl-C, noted for the loop to act on between two steps."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was asked to stop and its state is committed; run it again and it goes on from `step`."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}, which is committed")
        self.number = number
        self.step = step


class StopRequest:
    """Inside its block `signal` tells which of SIGTERM and SIGINT came, or None; a second one acts as usual.

    `wake` is called by a thread as soon as one has come, even while the main thread waits in a call of TensorFlow's,
    where Python acts on no signal.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.signal: int | None = None
        self._wake = wake
        self._before: dict[int, signal._HANDLER] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        theirs, ours = (self._closing.enter_context(end) for end in socket.socketpair())
        ours.setblocking(False)
        threading.Thread(target=self._watch, args=(theirs,), name="signals", daemon=True).start()
        self._closing.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False))
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        self._closing.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _watch(self, numbers: socket.socket) -> None:
        """Every signal that has a handler of Python's sends its number."""
        with contextlib.suppress(OSError):  # the block has ended
            while received := numbers.recv(64):
                if {signal.SIGTERM, signal.SIGINT}.intersection(received):
                    self._wake()
