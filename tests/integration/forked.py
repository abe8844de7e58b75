"""Commands of this Python in processes of their own, forked from one that has imported TensorFlow: that takes 8 s of a core."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["catdog.cli", "catdog.training.trainer"])

Environment = Mapping[str, str] | None


@atexit.register
def _kill_what_a_failed_test_has_left() -> None:
    """Before multiprocessing asks it to end, and waits for that."""
    for child in multiprocessing.active_children():
        child.kill()


def spawned(words: Sequence[str], log: Path, environment: Environment = None) -> subprocess.Popen[bytes]:
    """A command in a process that is all its own, what it prints in a file."""
    with open(log, "wb") as printed:
        return subprocess.Popen(words, stdout=printed, stderr=printed, env=environment)


class Forked:
    """What subprocess.Popen is to a command, to `python -m MODULE ...` or `python -c CODE ...`; what it prints in a file."""

    def __init__(self, words: Sequence[str], log: Path, environment: Environment = None) -> None:
        assert words[0] == sys.executable
        environment = dict(os.environ if environment is None else environment)
        log.write_bytes(b"")  # may be read at once
        # A daemon is not waited for when the tests end.
        self._process = _SERVER.Process(target=_run, args=([*words[1:]], log, environment), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(words: list[str], log: Path, environment: dict[str, str]) -> None:
    """Be what Python is with these words: all modules of ours are imported anew, from where PYTHONPATH has them first."""
    with open(log, "ab") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    for name in [each for each in sys.modules if each.partition(".")[0] in ("catdog", "tests")]:
        del sys.modules[name]
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    kind, code, *arguments = words
    sys.argv = [code if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(code, {"__name__": "__main__"})
