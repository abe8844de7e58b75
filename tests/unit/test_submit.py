"""What goes to a Ray cluster with a job, how its log is followed, and the mistakes that are told before anything is sent."""

import http.server
import json
import os
import socket
import threading
import tomllib
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobDetails, JobStatus

from catdog.errors import CallerError, RunError
from catdog.recipe import Data, Recipe, Run, load_recipe
from job.submit import commands, follow, working_dir
from job.submit.follow import Following
from job.submit.jobs import Jobs, Unreachable, dashboard, job_exit_code
from job.submit.status import print_job, print_jobs

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "job/recipes/quickstart.toml")
PLACED = Recipe(data=Data(uri="/data"), run=Run(uri="gs://bucket/run"))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which the program refuses, without its prefix."""
    assert commands.run([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("job.submit: error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("job.submit: error: ").rstrip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.toml"], "nowhere.toml: there is no such recipe"),
        (["statu"], "did you mean status?"),
        ([QUICKSTART, "--data.uri="], "data.uri is empty: name its place with --data.uri"),
        ([QUICKSTART, "--run", ""], "run.uri is empty: name its place with --run"),
        ([QUICKSTART, "--run", "s3://bucket/run"], "s3:// is not supported"),
        ([QUICKSTART, "--data.sise", "96"], "did you mean 'data.side'?"),
        ([QUICKSTART, "--workers", "4-2"], "cluster.workers = '4-2': must be"),
        ([QUICKSTART, "--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: is not set here"),
        ([QUICKSTART, "--env", "=1"], "--env =1: must be NAME or NAME=VALUE"),
        ([QUICKSTART, "--nowait"], "did you mean --no-wait?"),
        ([QUICKSTART, "--address", "head:8265"], "--address head:8265: must be"),
        ([QUICKSTART, "--address", "http://head:port"], "--address http://head:port: must be"),
        (["logs"], "logs lacks ID"),
        (["stop", "an id", "another"], "stop does not take 'another'"),
        (["status", "--follow"], "status has no option --follow"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_sent(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in mistake(capsys, *arguments)


def test_an_address_where_nothing_listens_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert f"{address}: nothing answers there" in mistake(capsys, QUICKSTART, "--address", address)


class _Answer(http.server.BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "what answers there is no Ray dashboard"),
        (200, b'{"version": "4"}', "what answers there is no Ray dashboard"),
        (404, b"nothing here", "no Ray dashboard answers there"),
        (502, b"bad gateway", "what answers there is no Ray dashboard"),
        (401, b"no token", "the cluster wants a token: set RAY_AUTH_MODE=token"),
        (200, b'{"ray_version": "1.13.0"}', "Ray version 1.13.0 is running on the cluster."),
        (200, b'{"ray_version": "2.40.0"}', "catdog needs Ray 2.60 or newer there."),
    ],
)
def test_an_answer_that_is_not_of_a_cluster_that_can_be_used_is_told_in_one_line(
    status: int, body: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = type("Handler", (_Answer,), {"status": status, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        # The address that is given counts, whatever the environment says.
        os.environ["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:1"
        assert told in mistake(capsys, QUICKSTART, "--address", f"{address}/")
        server.shutdown()


class _Dashboard(_Answer):
    """One of a Ray that is new enough, whose list of jobs is `body`."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        version = json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode()
        self.wfile.write(self.body if self.path.startswith("/api/jobs") else version)


@pytest.mark.parametrize("jobs", [b"<html>", b"null", b"[1]", b"[{}]", b"[" * 100_000])
def test_a_list_that_is_none_of_jobs_is_told_in_one_line(jobs: bytes) -> None:
    handler = type("Handler", (_Dashboard,), {"body": jobs})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(Unreachable, match=r"^http://[\d.:]+: .* nothing that Ray's client understands: [^\n]+$"):
            Jobs(f"http://127.0.0.1:{server.server_port}").all()
        server.shutdown()


@pytest.mark.parametrize(
    ("given", "environment", "used"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "http://b:1"}, "http://a:1"),
        (None, {"RAY_ADDRESS": "http://b:1"}, "http://b:1"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        ("http://c:1/", {"RAY_API_SERVER_ADDRESS": "http://a:1"}, "http://c:1"),
    ],
)
def test_the_address_is_the_one_given_then_that_of_the_environment(
    given: str | None, environment: dict[str, str], used: str
) -> None:
    assert dashboard(given, environment) == used


def test_named_variables_go_along_and_no_others() -> None:
    environment = {"HERE": "1=2", "EMPTY": "", "SECRET": "x"}
    named = working_dir.named(["HERE", "EMPTY", "GIVEN=a=b", "NONE=", "HERE=again"], environment)
    assert named == {"HERE": "again", "EMPTY": "", "GIVEN": "a=b", "NONE": ""}
    assert working_dir.named(["HERE"], environment) == {"HERE": "1=2"}
    with pytest.raises(CallerError, match="--env MISSING: is not set here"):
        working_dir.named(["MISSING"], environment)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_whole_of_both_packages_goes_along_as_they_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    declared = {package: ["**/*.py", *patterns] for package, patterns in settings["package-data"].items()}
    code = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in ROOT.glob(f"{package}/{pattern}")
    }
    with working_dir.working_dir(PLACED, code=True) as folder:
        assert files(folder) == {"recipe.toml"} | {path.relative_to(ROOT).as_posix() for path in code}
        assert all((folder / path.relative_to(ROOT)).read_bytes() == path.read_bytes() for path in code)
        assert load_recipe(folder / "recipe.toml") == PLACED
    assert not folder.exists()


def test_nothing_but_code_goes_along_of_what_lies_among_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("catdog")
    package.__path__ = [str(tmp_path / "catdog")]
    names = ["a.py", "b/c.py", "weights/w.h5", ".env", ".git/config", "__pycache__/a.pyc", "data/1.tfrecord", "cat.jpg"]
    for name in names:
        (tmp_path / "catdog" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "catdog" / name).touch()
    monkeypatch.setattr(working_dir, "_CODE", {package: working_dir._CODE[working_dir.catdog]})
    with working_dir.working_dir(PLACED, code=True) as folder:
        assert files(folder) == {"recipe.toml", *(f"catdog/{name}" for name in names[:3])}


def test_where_the_cluster_has_the_code_the_recipe_goes_alone() -> None:
    with working_dir.working_dir(PLACED, code=False) as folder:
        assert files(folder) == {"recipe.toml"}


def job(status: JobStatus, code: int | None = None, **more: object) -> JobDetails:
    return JobDetails(
        type="SUBMISSION", submission_id="an_id", status=status, entrypoint="python x", driver_exit_code=code, **more
    )


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (job(JobStatus.SUCCEEDED, 0), 0),
        (job(JobStatus.FAILED, 2), 2),
        (job(JobStatus.FAILED, 143), 143),
        (job(JobStatus.FAILED, -9), 137),
        (job(JobStatus.FAILED, None), 1),
        (job(JobStatus.STOPPED, None), 143),
    ],
)
def test_the_exit_code_is_that_of_the_job(ended: JobDetails, code: int) -> None:
    assert job_exit_code(ended) == code


def test_a_table_shows_state_and_run_of_each_job(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"start_time": 1_000_000, "end_time": 1_065_000}
    print_jobs(
        [job(JobStatus.RUNNING, metadata={"run": "gs://bucket/run"}, start_time=0), job(JobStatus.FAILED, **times)]
    )
    title, running, failed = capsys.readouterr().out.splitlines()
    assert title.split() == ["id", "state", "run", "started", "took"]
    assert running.split() == ["an_id", "running", "gs://bucket/run", "-", "-"]
    assert failed.split()[:4] == ["an_id", "failed", "python", "x"] and failed.split()[-1] == "0:01:05"


def test_of_one_job_the_facts_are_shown_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_job(job(JobStatus.FAILED, 3, metadata={"run": "/runs/1"}))
    print_job(job(JobStatus.FAILED, message="runtime_env setup failed:\n no space"))
    ended, never_begun = capsys.readouterr().out.split("state ")[1:]
    assert ended.split() == ["failed", "run", "/runs/1", "started", "-", "took", "-", "exit", "code", "3"]
    assert never_begun.endswith("why        runtime_env setup failed: no space\n")


class Connections:
    """A cluster whose connections bring these texts and then break or, where they end with no error, are closed."""

    def __init__(self, *connections: list[str | Exception]) -> None:
        self._connections = iter(connections)
        self._left = len(connections)

    async def tail(self, _: str) -> AsyncIterator[str]:
        self._left -= 1
        for text in next(self._connections):
            if isinstance(text, Exception):
                raise text
            yield text

    def job(self, _: str) -> JobDetails:
        return job(JobStatus.RUNNING if self._left else JobStatus.SUCCEEDED)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Pauses are noted and not made."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(follow.asyncio, "sleep", sleep)
    return pauses


def test_a_log_whose_connections_break_is_shown_once(at_once: list[float]) -> None:
    away = Unreachable("the cluster does not answer")
    cluster = Connections(
        ["one\n", "tw", away],
        [away],
        ["one\ntw"],  # closed in good order, though the job goes on
        ["on", away],
        ["one\n", "two\nth", "ree\n"],
    )
    shown: list[str] = []
    told: list[str] = []
    assert Following(cluster, "an_id", shown.append, told.append).to_the_end().status is JobStatus.SUCCEEDED
    assert shown == ["one\n", "tw", "o\nth", "ree\n"]
    assert told == [f"{away}; it is asked again for 120 seconds"] * 2
    assert at_once == [1, 2, 4, 8]


def test_a_cluster_that_stays_away_is_given_up(at_once: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", -1)
    cluster = Connections(["one\n"], [Unreachable("the cluster does not answer")])
    cluster.address = "http://head:8265"
    with pytest.raises(RunError, match=r"the job may go on: `python -m job.submit logs an_id --follow"):
        follow.follow(cluster, "an_id")
