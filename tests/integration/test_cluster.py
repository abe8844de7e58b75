"""The Ray cluster that `make cluster` starts, beside others, and what is left when it is taken down or has died."""

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.local_cluster import LocalCluster, lines_until, rest
from tests.pace import within


def refused(cluster: LocalCluster, *arguments: str) -> str:
    """The one line with which it refuses."""
    done = cluster.infra(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "state")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "is not free; give another --port" in refused(cluster, "up", "--port", str(other.getsockname()[1]))
    assert "no cluster is up" in refused(cluster, "run", "--", "true")
    assert cluster.infra("down").stdout == "no cluster was up\n"
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(LocalCluster(tmp_path / "file" / "state"), "up")


@pytest.mark.parametrize("name", ["token", "node-0.log", "cluster.json"])
def test_a_folder_with_files_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    cluster = LocalCluster(tmp_path / "state")
    cluster.folder.mkdir()
    (cluster.folder / name).write_text("mine")
    assert name in (told := refused(cluster, "up")) and "give another --folder" in told
    cluster.infra("down")
    assert (cluster.folder / name).read_text() == "mine"


def processes(folder: Path) -> list[psutil.Process]:
    """All that were given the token that lies in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_AUTH_TOKEN_PATH") == str(folder / "token"):
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster whose folder's path has spaces, and is too long for that of a socket."""
    cluster = LocalCluster(tmp_path / "/".join(["a long name"] * 10))
    cluster.up()
    yield cluster
    cluster.infra("down")


@pytest.mark.slow
def test_it_is_its_owners_alone_and_nothing_is_left_of_it(cluster: LocalCluster) -> None:
    again = cluster.infra("up")
    assert again.returncode == 0 and "was up already" in again.stdout
    assert f"export RAY_API_SERVER_ADDRESS={cluster.environment['RAY_API_SERVER_ADDRESS']}\n" in again.stdout
    temporary = Path(json.loads((cluster.folder / "cluster.json").read_text())["temporary"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (temporary, cluster.folder)] == [0o700, 0o700]
    assert stat.S_IMODE((cluster.folder / "token").stat().st_mode) == 0o600
    code, job_id, _ = cluster.submit("job/recipes/quickstart.toml", "--no-wait", program="import time; time.sleep(600)")
    assert code == 0 and processes(cluster.folder)
    assert cluster.infra("down").stdout == "the cluster is down\n"
    assert processes(cluster.folder) == [] and not temporary.exists()
    assert [path.name for path in cluster.folder.iterdir()] == [".lock"]
    assert cluster.submit("status")[0] == 2 and job_id


@pytest.mark.slow
def test_another_ray_on_the_machine_is_left_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    other = LocalCluster(tmp_path / "other")
    other.up("--nodes", "1")
    try:
        before = {process.pid for process in processes(other.folder)}
        counting = "import time\nfor n in range(30):\n    print('line', n)\n    time.sleep(0.5)"
        with other.start("job/recipes/quickstart.toml", program=counting) as job:
            lines_until(job, "line 0\n")
            assert cluster.infra("down").stdout == "the cluster is down\n"
            code, out, _ = rest(job)
        assert code == 0 and out.count("line") == 29
        assert before <= {process.pid for process in processes(other.folder)}
    finally:
        other.infra("down")


@pytest.mark.slow
def test_a_cluster_that_was_killed_is_started_anew_and_half_a_one_is_told(cluster: LocalCluster) -> None:
    (head, _), (node, _) = json.loads((cluster.folder / "cluster.json").read_text())["nodes"]
    os.kill(node, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(node)], timeout=within(10))
    assert "of the cluster's 2 nodes 1 is left" in refused(cluster, "up")
    os.kill(head, signal.SIGKILL)
    psutil.wait_procs(processes(cluster.folder), timeout=within(20))
    assert processes(cluster.folder) == []
    address = cluster.environment["RAY_API_SERVER_ADDRESS"]
    cluster.up()
    assert cluster.environment["RAY_API_SERVER_ADDRESS"] != address
    assert cluster.submit("status")[:2] == (
        0,
        f"{cluster.environment['RAY_API_SERVER_ADDRESS']}: no job has been sent to this cluster\n",
    )
