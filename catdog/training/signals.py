"""A request to stop, as SIGTERM and Ctrl-C make it, noted for the loop to act on between two steps."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """Tells the loop that it was asked to stop; may be asked from any thread."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal that asked, SIGTERM or SIGINT; None before one did."""
        self.wake: Callable[[], None] = lambda: None
        """Called when a stop is asked for, by the thread that asks."""

    def ask(self, number: int) -> None:
        self.signal = number
        self.wake()


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """A request that SIGTERM and Ctrl-C make inside the block; the second one acts as usual. For the main thread only.

    A thread makes it as soon as one has come, even while the main thread waits in a call of TensorFlow's, where Python
    acts on no signal.
    """
    request = StopRequest()
    before: dict[int, signal._HANDLER] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    with contextlib.ExitStack() as closing:
        theirs, ours = (closing.enter_context(end) for end in socket.socketpair())
        ours.setblocking(False)
        threading.Thread(target=_watch, args=(theirs, request), name="signals", daemon=True).start()
        closing.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False))
        before |= {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield request
        finally:
            restore()


def _watch(numbers: socket.socket, request: StopRequest) -> None:
    """Every signal that has a handler of Python's sends its number."""
    with contextlib.suppress(OSError):  # the block has ended
        while received := numbers.recv(64):
            for number in received:
                if number in (signal.SIGTERM, signal.SIGINT):
                    request.ask(number)
