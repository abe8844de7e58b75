"""A job followed to its end: its log, each character shown once however often the connection breaks, and Ctrl-C."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable

from ray.job_submission import JobDetails

from catdog.command.program import INTERRUPTED
from catdog.errors import RunError, tell
from job.submit.jobs import Jobs, Unreachable, job_exit_code
from job.submit.status import ending

PATIENCE = 120.0  # seconds that the cluster may be away


class Following:
    """A job that is followed. `show` takes each part of its log, `tell` a line about the cluster when it is away."""

    def __init__(self, jobs: Jobs, job_id: str, show: Callable[[str], object], tell: Callable[[str], object]) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._show = show
        self._tell = tell
        self._shown = 0
        self._heard = 0.0
        self.last = "\n"  # character that was shown

    def to_the_end(self) -> JobDetails:
        """Show what is written until the job has ended; broken off by Ctrl-C, it may be called again and goes on.

        Raises CallerError for a job that the cluster does not know, and Unreachable if the cluster stays away.
        """
        return asyncio.run(self._follow())

    async def _follow(self) -> JobDetails:
        self._heard = time.monotonic()
        pause, told = 1.0, False
        while True:
            shown = self._shown
            try:
                await self._connection()
                job = self._jobs.job(self._job_id)
                if job.status.is_terminal():
                    return job
                self._heard, told = time.monotonic(), False
            except Unreachable as away:
                if time.monotonic() - self._heard > PATIENCE:
                    raise
                if not told:
                    self._tell(f"{away}; it is asked again for {PATIENCE:.0f} seconds")
                told = True
            # Ray also closes, in good order, the log of a job that goes on: when its own processes have lost each other
            # or a character is half written. It is then sent again from its beginning, so not too often.
            pause = 1.0 if self._shown > shown else min(2 * pause, 15.0)
            await asyncio.sleep(pause)

    async def _connection(self) -> None:
        """Show what one connection brings and has not been shown before."""
        read = 0
        async for text in self._jobs.tail(self._job_id):
            self._heard = time.monotonic()
            if read + len(text) > self._shown:
                self._show(text[max(0, self._shown - read) :])
                self._shown = read + len(text)
                self.last = text[-1]
            read += len(text)


def follow(jobs: Jobs, job_id: str) -> int:
    """Print a job's log until the job has ended; its exit code. Ctrl-C asks whether to stop the job as well.

    Raises CallerError for a job that the cluster does not know, and RunError if the cluster stays away.
    """
    following = Following(jobs, job_id, lambda text: print(text, end="", flush=True), _tell)
    state = "goes on"
    try:
        try:
            job = following.to_the_end()
        except KeyboardInterrupt:
            if not _stop_too():
                raise
            state = "is being stopped"
            jobs.stop(job_id)
            job = following.to_the_end()
    except KeyboardInterrupt:
        _tell(f"{job_id} {state}")
        _tell(f"to follow it: python -m job.submit logs {job_id} --follow --address {jobs.address}")
        _tell(f"to stop it:   python -m job.submit stop {job_id} --address {jobs.address}")
        return INTERRUPTED
    except Unreachable as away:
        again = f"`python -m job.submit logs {job_id} --follow --address {jobs.address}`"
        raise RunError(f"{away}; the job may go on: {again} follows it again") from None
    print("" if following.last == "\n" else "\n", end="", flush=True)
    _tell(f"{job_id} has {ending(job)}")
    return job_exit_code(job)


def _stop_too() -> bool:
    """Ask on the terminal whether the job is to be stopped; where there is none, it is not."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    with contextlib.suppress(KeyboardInterrupt):
        print("\nstop the job too? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    print(file=sys.stderr)
    return False


def _tell(message: str) -> None:
    tell(f"job.submit: {message}", file=sys.stderr)
