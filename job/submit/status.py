"""What is printed about jobs."""

import textwrap
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from ray.job_submission import JobDetails, JobStatus

from catdog.command.printing import print_table
from catdog.errors import tell
from job.submit.jobs import RUN


def print_jobs(jobs: Sequence[JobDetails]) -> None:
    """A line a job."""
    rows = [[str(job.submission_id), state(job), run(job), _started(job), _took(job)] for job in jobs]
    print_table(["id", "state", "run", "started", "took"], rows)


def print_job(job: JobDetails) -> None:
    """A line a fact."""
    facts = {
        "state": state(job),
        "run": run(job),
        "started": _started(job),
        "took": _took(job),
        "exit code": None if job.driver_exit_code is None else str(job.driver_exit_code),
        "why": _why(job) if job.status is JobStatus.FAILED and job.driver_exit_code is None else None,
    }
    for name, text in facts.items():
        if text is not None:
            tell(f"{name:<9}  {text}")


def ending(job: JobDetails) -> str:
    """How a job has ended, as what it has done."""
    if job.status is not JobStatus.FAILED:
        return {JobStatus.SUCCEEDED: "succeeded", JobStatus.STOPPED: "stopped"}[job.status]
    if job.driver_exit_code is not None:
        return f"failed with exit code {job.driver_exit_code}"
    return f"failed: {_why(job)}"


def state(job: JobDetails) -> str:
    return job.status.value.lower()


def run(job: JobDetails) -> str:
    """The URI of the job's run; of a job that is none of catdog's, its command."""
    return (job.metadata or {}).get(RUN) or job.entrypoint


def _why(job: JobDetails) -> str:
    return textwrap.shorten(job.message or "Ray does not tell why", 500, placeholder=" ...")


def _started(job: JobDetails) -> str:
    return "-" if not job.start_time else f"{datetime.fromtimestamp(job.start_time / 1000):%Y-%m-%d %H:%M:%S}"


def _took(job: JobDetails) -> str:
    """How long the job has been there, from when it was sent to its end or until now."""
    if not job.start_time:
        return "-"
    return str(timedelta(seconds=max(0, int((job.end_time or time.time() * 1000) - job.start_time) // 1000)))
