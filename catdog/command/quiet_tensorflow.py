"""TensorFlow and Keras, imported as this program needs them and without the noise."""

import contextlib
import faulthandler
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType

from catdog.errors import CallerError, RunError, one_line
from catdog.storage import expanded

_KEEPER = """
import sys
if kept := sys.stdin.buffer.read():
    sys.stderr.buffer.write(b"while TensorFlow was imported this was written:\\n" + kept)
"""


def import_tensorflow() -> None:
    """Import both, whatever this person has set for other programs that use them.

    What their libraries write to stderr before they can be told to be quiet is shown only when they fail. Raises
    RunError then, OSError for what the system refuses them, and CallerError for settings of Keras that it refuses itself
    and where no home directory is known.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["MPLBACKEND"] = "agg"  # a notebook's is one that its own environment alone has
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it takes all memory of a GPU, whatever it is for
    # Nobody changes the files that we read with it, and not every file system grants locks.
    os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("ignore")  # made errors, as PYTHONWARNINGS can, their libraries' would end a run
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    expanded("~")  # without one some libraries fail hours later
    try:
        with _quiet_unless_it_fails():
            import keras
            import tensorflow  # noqa: F401
    except Exception as error:
        told = one_line(error)
        if traceback.extract_tb(error.__traceback__)[-1].filename.endswith("keras/src/backend/config.py"):
            place = os.environ.get("KERAS_HOME", "~/.keras")
            raise CallerError(f"{place}/keras.json: Keras refuses these settings: {told}") from None
        if isinstance(error, OSError) and error.errno is not None:
            raise
        modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        module = [name for name in modules if not name.startswith("importlib")][-1]
        raise RunError(f"TensorFlow cannot be imported: {type(error).__name__} in {module}: {told}") from None
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


@contextlib.contextmanager
def _silent_where_stopped(keeper: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a signal that asks to stop end this process as it would, without a word of what was written meanwhile."""
    main = threading.current_thread() is threading.main_thread()
    unheard = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(number) is signal.SIG_DFL
    ]

    def stop(number: int, frame: FrameType | None) -> None:
        keeper.kill()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in unheard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in unheard:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _quiet_unless_it_fails() -> Iterator[None]:
    """Keep what is written to stderr; it is shown when the block raises, or when this process ends in it.

    Another process keeps it: one that the system kills, as on a processor that TensorFlow is not made for, shows nothing.
    """
    shown = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", _KEEPER]
    # In a session of its own, so that Ctrl-C in this terminal is none of its business.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=shown, start_new_session=True) as keeper:
        assert keeper.stdin is not None
        os.dup2(keeper.stdin.fileno(), 2)
        keeper.stdin.close()
        trace = not faulthandler.is_enabled()
        if trace:
            faulthandler.enable(shown)
        failed = False
        try:
            with _silent_where_stopped(keeper):
                yield
        except Exception as error:
            failed = getattr(error, "errno", None) is None  # what the system refuses tells all by itself
            raise
        finally:
            if not failed:
                keeper.kill()
            if trace:
                faulthandler.disable()
            os.dup2(shown, 2)
            os.close(shown)
