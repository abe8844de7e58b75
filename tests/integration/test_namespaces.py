"""A job that is submitted to a cluster of two hosts, each with a network of its own, one of which is lost."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catdog.storage import Bucket, open_bucket
from infra.ray_node import PATIENCE
from tests.integration.forked import spawned
from tests.integration.processes import Process, assert_close, past
from tests.pace import within

HEAD, OTHER = "10.231.7.1", "10.231.7.2"
LINK = "eth0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and the command ip, of iproute2"
    ),
]


class Host:
    """A network namespace, in which processes run as on a host of their own."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self._folder = name, address, folder
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")

    def join(self, end: str) -> None:
        _ip("link", "set", end, "netns", self.name)
        _ip("-n", self.name, "link", "set", end, "name", LINK)
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", LINK)
        _ip("-n", self.name, "link", "set", LINK, "up")

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def start(self, module: str, *words: str, **environment: str) -> None:
        log = open(self.log(module), "ab")  # noqa: SIM115 (its process has it)
        command = self.command(sys.executable, "-m", module, *words)
        subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)

    def log(self, module: str) -> Path:
        return self._folder / f"{self.name}-{module}.log"

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def lose(self) -> None:
        """As if the power had failed: nothing is heard from it any more."""
        subprocess.run(["ip", "-n", self.name, "link", "set", LINK, "down"], check=False, capture_output=True)
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        self.lose()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    made = []
    try:
        for name, address in (("catdog-a", HEAD), ("catdog-b", OTHER)):
            made.append(Host(name, address, tmp_path))
        _ip("link", "add", "catdog-a", "type", "veth", "peer", "name", "catdog-b")
        for host in made:
            host.join(host.name)
        yield made[0], made[1]
    finally:
        for host in made:
            host.remove()


@pytest.fixture
def cluster(hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, Host]:
    """Ray on both, with a token; and the stand-in for the store on the first."""
    head, other = hosts
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{HEAD}:9023")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    common = ("--num-cpus", "1", "--disable-usage-stats", "--block")
    dashboard = ("--dashboard-host", HEAD, "--dashboard-port", "8265", "--temp-dir", "/tmp/catdog-namespaces")
    head.start("infra.bucket", "--host", HEAD, "--folder", str(tmp_path / "store"))
    # By default it takes Ray more than a minute to give up a host that has gone without a word.
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": f"{within(3) * 1000:.0f}"}
    options = ("--node-ip-address", HEAD, "--port", "6379", *dashboard, *common)
    head.start("infra.ray_node", "start", "--head", *options, **soon, RAY_health_check_failure_threshold="3")
    _wait(lambda: "Ray runtime started" in head.log("infra.ray_node").read_text())
    joining = ("--address", f"{HEAD}:6379", "--node-ip-address", OTHER, "--include-log-monitor", "false")
    other.start("infra.ray_node", "start", *joining, *common)
    _wait(lambda: "Ray runtime started" in other.log("infra.ray_node").read_text())
    return head, other


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_job_submitted_to_two_hosts_with_all_in_the_bucket_ends_on_the_one_that_is_left(
    cluster: tuple[Host, Host], small_pictures: Path, small_recipe: Path, tmp_path: Path, undisturbed: Bucket
) -> None:
    head, other = cluster
    words = ("prepare", f"folder:{small_pictures}", "gs://catdog/data", "--side", "64", "--shards", "4")
    subprocess.run(head.command(sys.executable, "-m", "catdog", *words), check=True, capture_output=True)
    recipe = tmp_path / "small.toml"
    recipe.write_text(re.sub('uri = ".*"', 'uri = "gs://catdog/data"', small_recipe.read_text()))
    command = head.command(sys.executable, "-m", "job.submit")
    words = ("--address", f"http://{HEAD}:8265", "--workers", "1-2", "--env", "STORAGE_EMULATOR_HOST")
    job = Process(recipe, open_bucket("gs://catdog/run"), *words, command=command, start=spawned)
    job.wait_until(past(14))
    other.lose()
    told = job.finish()
    assert "worker 1 of 2 on" in told and "worker 0 of 1 on" in told
    assert_close(open_bucket(str(tmp_path / "store/catdog/run")), undisturbed)
