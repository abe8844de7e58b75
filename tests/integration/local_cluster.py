"""A Ray cluster of this machine, and `job.submit` in processes of its own that find it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.pace import within

ROOT = Path(__file__).parents[2]

# `python -m job.submit`, but what the job runs is given first.
_SUBMIT = "import sys; from job.submit import commands; commands.ENTRYPOINT = sys.argv.pop(1); commands.main()"


def clean_environment() -> dict[str, str]:
    """This one's, without what it may tell of another cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


class LocalCluster:
    """`infra.cluster` with its state in a folder, and programs that find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = clean_environment()

    def infra(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.cluster", "--folder", str(self.folder), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=within(200), check=False
        )

    def up(self, *arguments: str) -> None:
        """Start it, and find it from here on by what it prints."""
        started = self.infra("up", *arguments)
        assert started.returncode == 0, started.stderr
        exported = [line.removeprefix("export ") for line in started.stdout.splitlines() if line.startswith("export ")]
        self.environment |= dict(word.split("=", 1) for line in exported for word in shlex.split(line))

    def start(self, *arguments: str, program: str | None = None, **options: object) -> subprocess.Popen[str]:
        """Begin `job.submit`; with `program`, a text in Python, what the job runs is that."""
        command = [sys.executable, "-m", "job.submit", *arguments]
        if program is not None:
            command = [sys.executable, "-c", _SUBMIT, shlex.join(["python", "-c", program]), *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, text=True, **{"env": self.environment} | pipes | options)

    def submit(self, *arguments: str, program: str | None = None, **options: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `job.submit`, which may have waited for an answer."""
        with self.start(*arguments, program=program, **options) as process:
            out, err = process.communicate(timeout=within(120))
        return process.returncode, out, answered(err)


def lines_until(process: subprocess.Popen[str], last: str) -> str:
    """What a process prints up to a line and with it."""
    lines = [""]
    while lines[-1] != last:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines) + process.stderr.read()
    return "".join(lines)


def rest(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, and what a process prints until it ends, after `lines_until`, whose buffer communicate() ignores."""
    out, err = process.stdout.read(), process.stderr.read()
    return process.wait(within(60)), out, err


def answered(told: str) -> str:
    """What was told, without the lines that a cluster on a busy machine was slow to answer."""
    return "".join(line for line in told.splitlines(keepends=True) if "; it is asked again for " not in line)
