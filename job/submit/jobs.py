"""The jobs of a Ray cluster, through its jobs API: sent, looked at, followed and stopped; every fault is one line."""

import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from catdog.command.program import DONE, FAILED, signalled
from catdog.errors import CallerError, RunError, one_line
from catdog.storage.causes import cause, readable
from job.ray_private import names
from job.ray_private.client import Client

RUN = "run"  # the key under which a job's metadata hold its run's URI
GRACE = 60  # seconds that a stopped job has to commit its state before Ray kills it; Ray's own 3 may be too few
STOPPED = signalled(signal.SIGTERM)
_LATEST = 250_000_000_000_000  # milliseconds since the epoch; the last year that a date may have ends soon after


class Unreachable(RunError):
    """A cluster that does not answer; it may come back."""


class Jobs:
    """The jobs of the cluster whose dashboard has this address.

    Raises CallerError, here if the cluster cannot be reached, and later for a job that is unknown to it or a request
    that it refuses; Unreachable if it does not answer any more.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        _check(address)
        try:
            self._client = Client(address)
        except AuthenticationError as error:
            raise CallerError(f"{address}: {_unauthorized(error)}") from None
        except RuntimeError as error:
            if names.TOO_OLD not in str(error):
                raise CallerError(f"{address}: no Ray dashboard answers there ({readable(error)})") from None
            raise CallerError(f"{address}: {one_line(error)}") from None
        except (ConnectionError, requests.Timeout) as error:
            raise CallerError(
                f"{address}: nothing answers there: {cause(error.__context__ or error)}; it must be the dashboard's"
                " address of a cluster that is up"
            ) from None
        except Exception as error:  # what Ray's client makes of an answer that is none of Ray's
            raise CallerError(f"{address}: what answers there is no Ray dashboard ({readable(error)})") from None

    def submit(self, entrypoint: str, working_dir: Path, env: dict[str, str], run: str) -> str:
        """Send a job; its id."""
        runtime_env = {
            "working_dir": str(working_dir),
            "env_vars": {names.STOP_WAIT: str(GRACE)} | env,
        }
        with self._told():
            return self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata={RUN: run})

    def all(self) -> list[JobDetails]:
        """Every job that was sent to the cluster, the newest first."""
        with self._told():
            jobs = [_checked(job) for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def job(self, job_id: str) -> JobDetails:
        with self._told(job_id):
            return _checked(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """What the job has printed so far."""
        with self._told(job_id):
            return self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> None:
        """Have the job stopped: it gets SIGTERM, and SIGKILL if it is still there after its grace."""
        with self._told(job_id):
            # A job that is only being set up may not hear it yet.
            while not self._client.stop_job(job_id) and not self._client.get_job_info(job_id).status.is_terminal():
                time.sleep(1)

    def stopped(self, job_id: str) -> JobDetails:
        """Have the job stopped, and wait until it has ended. Raises RunError if it does not."""
        self.stop(job_id)
        deadline = time.monotonic() + GRACE + 30
        while not (job := self.job(job_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise RunError(f"{job_id}: has been asked to stop, and has not ended within {GRACE + 30} seconds")
            time.sleep(0.5)
        return job

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """The log as it is written; it may break off, and a later one begins with the first character again."""
        with self._told(job_id):
            async for text in self._client.tail(job_id):
                yield text

    @contextlib.contextmanager
    def _told(self, job_id: str = "") -> Iterator[None]:
        """Tell in one line what is wrong with a request, about this job if it is about one."""
        try:
            if job_id and not re.fullmatch(r"\w[\w.-]*", job_id):
                raise CallerError(self._unknown(job_id))
            yield
        except AuthenticationError as error:
            raise CallerError(f"{self.address}: {_unauthorized(error)}") from None
        except (RecursionError, requests.JSONDecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise Unreachable(
                f"{self.address}: the request or its answer is nothing that Ray's client understands:"
                f" {one_line(error)[:200]}"
            ) from error
        except RuntimeError as error:
            status = re.match(names.REFUSED, str(error))
            if status is None:
                raise
            if status[1] == "404" and job_id:
                raise CallerError(self._unknown(job_id)) from None
            why = str(error)[status.end() :].strip(" .\n").rpartition("\n")[2] or f"HTTP status {status[1]}"
            if status[1].startswith("5"):
                raise Unreachable(f"{self.address}: the cluster is in trouble: {why}") from None
            raise CallerError(f"{self.address}: the cluster refuses: {why}") from None
        except (requests.RequestException, ConnectionError, aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self.address}: the cluster does not answer: {cause(error)}") from None

    def _unknown(self, job_id: str) -> str:
        return f"{job_id}: there is no such job at {self.address}; `python -m job.submit status` lists all"


def dashboard(address: str | None, environment: Mapping[str, str]) -> str:
    """The address that is given, else that of the environment as Ray reads it, else that of a cluster on this machine."""
    general = environment.get("RAY_ADDRESS", "")  # may also be that of the cluster's own protocol, which is of no use
    named = environment.get("RAY_API_SERVER_ADDRESS") or (general if "://" in general else "")
    return (address or named or "http://127.0.0.1:8265").rstrip("/")


def job_exit_code(job: JobDetails) -> int:
    """The exit code of a job that has ended, as a shell would tell it; Ray keeps none of a job that was stopped."""
    if job.status is JobStatus.STOPPED:
        return STOPPED
    if job.status is JobStatus.SUCCEEDED:
        return DONE
    code = job.driver_exit_code or FAILED  # Ray failed it before its program had ended, or begun
    return code if code > 0 else signalled(-code)


def _checked(job: JobDetails) -> JobDetails:
    """The job; raises ValueError for times in its answer that no calendar has."""
    for when in (job.start_time, job.end_time):
        if when is not None and not 0 <= when < _LATEST:
            raise ValueError(f"a time of {when} ms")
    return job


def _check(address: str) -> None:
    try:
        url = urlsplit(address)
        fine = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise CallerError(f"--address {address}: must be that of the cluster's dashboard, as in http://HEAD:8265")


def _unauthorized(error: AuthenticationError) -> str:
    text = str(error)
    if text.startswith(names.TOKEN_LACKING):
        return (
            "the cluster wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it,"
            " or RAY_AUTH_TOKEN to the token"
        )
    source = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    if text.startswith(names.TOKEN_REFUSED):
        return f"the cluster refuses the token {'RAY_AUTH_TOKEN' if 'RAY_AUTH_TOKEN' in os.environ else f'in {source}'}"
    return f"the file that RAY_AUTH_TOKEN_PATH names, {source}: {readable(text)}"
