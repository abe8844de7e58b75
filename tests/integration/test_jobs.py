"""Jobs of a real Ray cluster of two nodes: followed, looked at and stopped. What they run is a few lines of Python."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.local_cluster import ROOT, LocalCluster, answered, lines_until, rest
from tests.pace import within

RECIPE = ["job/recipes/quickstart.toml", "--workers", "1-2"]

# Shows what it was sent and ends with an exit code of its own.
SHOWING = """
import os, pathlib, sys, time
import catdog, job
from catdog.recipe import load_recipe
print("code from here:", {pathlib.Path(m.__file__).parents[1] == pathlib.Path.cwd() for m in (catdog, job)})
recipe = load_recipe("recipe.toml")
print("recipe:", recipe.data.uri, recipe.cluster.workers, recipe.phases[0].epochs)
print("variables:", os.environ.get("NAMED"), os.environ.get("GIVEN"), os.environ.get("SECRET"))
for number in range(2000):
    print("line", number, "Grüße")
    if number % 500 == 0:
        time.sleep(0.7)
sys.exit(3)
"""

# Takes its time to end when it is asked to: longer than the 3 seconds that Ray gives a job by itself.
STOPPING = """
import signal, sys, time
def stop(*_):
    print("stopping", flush=True)
    time.sleep(4)
    print("state committed", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("begun", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("a cluster") / "state")
    cluster.up()
    yield cluster
    cluster.infra("down")


def sent(cluster: LocalCluster) -> str:
    """A job that takes its time to stop, sent and not waited for; its id, which is all that is printed."""
    code, out, err = cluster.submit(*RECIPE, "--run", "gs://bucket/run", "--no-wait", program=STOPPING)
    assert (code, err) == (0, "") and re.fullmatch(r"raysubmit_\w+\n", out)
    return out.strip()


@pytest.fixture(scope="module")
def job_id(cluster: LocalCluster) -> str:
    return sent(cluster)


def test_its_log_is_followed_to_the_end_and_its_exit_code_given(cluster: LocalCluster, job_id: str) -> None:
    environment = cluster.environment | {"NAMED": "one", "SECRET": "x"}
    code, out, err = cluster.submit(
        *RECIPE, "--phases.0.epochs", "7", "--env", "NAMED", "--env", "GIVEN=a b", program=SHOWING, env=environment
    )
    assert code == 3, err
    assert [line for line in out.splitlines() if line.startswith("line")] == [f"line {n} Grüße" for n in range(2000)]
    first, *_ = out.splitlines()
    assert re.fullmatch(r"job raysubmit_\w+", first)
    assert err == f"job.submit: {first.removeprefix('job ')} has failed with exit code 3\n"
    assert "code from here: {True}\n" in out
    assert f"recipe: {ROOT}/bucket/data/quickstart 1-2 7\n" in out
    assert "variables: one a b None\n" in out


def test_a_job_that_is_stopped_has_time_to_commit_its_state(cluster: LocalCluster, job_id: str) -> None:
    with cluster.start("logs", job_id, "--follow") as following:
        shown = lines_until(following, "begun\n")
        code, out, _ = cluster.submit("status")
        [row] = [line for line in out.splitlines() if line.startswith(job_id)]
        assert code == 0 and row.split()[1:3] == ["running", "gs://bucket/run"]
        assert cluster.submit("stop", job_id) == (0, f"{job_id} has stopped\n", "")
        code, out, err = rest(following)
    assert (code, answered(err)) == (143, f"job.submit: {job_id} has stopped\n")
    assert out.endswith("stopping\nstate committed\n")
    assert cluster.submit("logs", job_id) == (0, shown + out, "")


def test_a_wrong_token_and_an_unknown_job_are_told_in_one_line(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    environment = cluster.environment | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    wrong = cluster.submit(*RECIPE, env=environment)
    unknown = cluster.submit("logs", "raysubmit_1", "--follow")
    for (code, out, err), told in (
        (wrong, f"refuses the token in {tmp_path}/token"),
        (unknown, "there is no such job"),
    ):
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("job.submit: error: ") and told in err


class Terminal:
    """`job.submit` with a terminal of its own."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.terminal, other = pty.openpty()
        ends = {"stdin": other, "stdout": other, "stderr": other, "start_new_session": True}
        program = STOPPING.replace("sleep(4)", "sleep(0.5)")
        self.process = cluster.start(*RECIPE, program=program, preexec_fn=_take_terminal, **ends)
        os.close(other)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, text: str) -> None:
        while text not in self.shown:
            ready, _, _ = select.select([self.terminal], [], [], within(60))
            assert ready, self.shown
            self.shown += os.read(self.terminal, 4096).decode()

    def ended(self) -> int:
        code = self.process.wait(within(60))
        os.set_blocking(self.terminal, False)
        try:
            while read := os.read(self.terminal, 4096):
                self.shown += read.decode()
        except OSError:  # nothing is left
            pass
        os.close(self.terminal)
        return code


def _take_terminal() -> None:
    """Make a new session's first terminal its own, as a shell does: Ctrl-C then reaches its processes as a signal."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@pytest.fixture
def terminal(cluster: LocalCluster) -> Iterator[Terminal]:
    terminal = Terminal(cluster)
    yield terminal
    terminal.process.kill()


def test_ctrl_c_asks_and_stops_the_job_too_if_that_is_wanted(terminal: Terminal) -> None:
    terminal.wait_for("\nbegun\r\n")
    terminal.type("\x03")
    terminal.wait_for("stop the job too? [y/N]")
    terminal.type("y\n")
    assert terminal.ended() == 143
    assert re.search(r"stopping\r\nstate committed\r\njob.submit: raysubmit_\w+ has stopped\r\n", terminal.shown)


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["\n", "n\n", "\x04", "\x03"])
def test_ctrl_c_leaves_the_job_running_if_nobody_says_yes(
    cluster: LocalCluster, terminal: Terminal, answer: str
) -> None:
    terminal.wait_for("\nbegun\r\n")
    terminal.type("\x03")
    terminal.wait_for("stop the job too? [y/N]")
    terminal.type(answer)
    assert terminal.ended() == 130
    [job_id] = re.findall(r"job.submit: (raysubmit_\w+) goes on\r\n", terminal.shown)
    assert f"logs {job_id} --follow --address {cluster.environment['RAY_API_SERVER_ADDRESS']}" in terminal.shown
    assert "running" in cluster.submit("status", job_id)[1]
    assert cluster.submit("stop", job_id)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_without_a_terminal_no_signal_to_who_follows_it_stops_the_job(
    cluster: LocalCluster, number: signal.Signals, code: int
) -> None:
    with cluster.start(*RECIPE, program=STOPPING) as process:
        shown = lines_until(process, "begun\n")
        process.send_signal(number)
        assert process.wait(within(20)) == code
    [job_id] = re.findall(r"raysubmit_\w+", shown.splitlines()[0])
    assert "running" in cluster.submit("status", job_id)[1]
    assert cluster.submit("stop", job_id)[0] == 0


@pytest.mark.slow
def test_a_job_whose_cluster_stands_still_for_a_while_is_followed_on(cluster: LocalCluster) -> None:
    counting = "import time\nfor n in range(160):\n    print('line', n)\n    time.sleep(0.5)"
    with cluster.start(*RECIPE, program=counting) as process:
        shown = lines_until(process, "line 5\n")
        dashboard = _dashboard(cluster)
        os.kill(dashboard, signal.SIGSTOP)
        time.sleep(45)
        os.kill(dashboard, signal.SIGCONT)
        code, out, err = rest(process)
    assert code == 0
    assert [line for line in (shown + out).splitlines() if line.startswith("line")] == [f"line {n}" for n in range(160)]
    assert err.count("it is asked again for 120 seconds\n") <= 1, (
        "it may have been away for too short a time to be missed"
    )


def _dashboard(cluster: LocalCluster) -> int:
    port = cluster.environment["RAY_API_SERVER_ADDRESS"].rpartition(":")[2]
    found = subprocess.run(["pgrep", "-f", f"dashboard.py.*--port={port}"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])
