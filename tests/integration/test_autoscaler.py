"""A run on a cluster whose hosts come when they are asked for."""

import time
from pathlib import Path

import pytest

from catdog.storage import Bucket, open_bucket
from tests.integration.processes import assert_close, past
from tests.integration.ray_nodes import Autoscaled, Job
from tests.pace import within


@pytest.mark.slow
def test_hosts_come_for_the_most_workers_and_go_when_the_run_is_done(
    tmp_path: Path, light_recipe_file: Path, light_run: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    run = open_bucket(str(tmp_path / "run"))
    with Autoscaled(tmp_path, most=3) as cluster:
        words = ("--workers", "1-2", "--cluster.cpus", "2", "--cluster.resize_every", "2")
        job = Job(cluster.address, light_recipe_file, run, *words, pause=within(1))
        job.wait_until(lambda told: "worker 1 of 2 on" in told and past(1)(told))
        assert cluster.nodes() == 2
        told = job.finish()
        assert "starting again (" not in told
        assert_close(run, light_run)
        deadline = time.monotonic() + within(120)
        while cluster.nodes():
            assert time.monotonic() < deadline, f"{cluster.nodes()} hosts are still there"
            time.sleep(1)
