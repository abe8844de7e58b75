"""One run under Ray Train on a real cluster of several nodes, which come and go."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from catdog.storage import Bucket, open_bucket
from infra import ray_node
from tests.integration.processes import assert_close, past
from tests.integration.ray_nodes import Job, Nodes
from tests.integration.recording import canonical, recorded
from tests.pace import within


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        own = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}  # other tests run beside this one
        for name, value in (own | ray_node.VARIABLES).items():
            patch.setenv(name, value)
        with Nodes() as nodes:
            yield nodes


@pytest.fixture
def two_nodes(cluster: Nodes) -> Nodes:
    cluster.be(2)
    return cluster


@pytest.fixture
def one_node(cluster: Nodes) -> Nodes:
    cluster.be(1)
    return cluster


@pytest.fixture
def run(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "run"))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_under_ray_train_on_the_batches_of_one_process_and_end_where_it_does(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket, small_data: Bucket, count: int
) -> None:
    job = Job(two_nodes.address, light_recipe_file, run, "--workers", str(count))
    told = job.finish()
    assert recorded(job.examples) == canonical(small_data, 4, 16, 40)
    assert_close(run, light_run)
    kept = [[name for name in bucket.list() if "tensorboard" not in name] for bucket in (run, light_run)]
    assert kept[0] == kept[1], "Ray leaves nothing of its own"
    assert len(re.findall(r"worker \d of", told)) == count
    assert told.count("step 40/40") == 2 and "Traceback" not in told


def test_when_a_host_dies_the_run_ends_on_the_one_that_is_left(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    job = Job(two_nodes.address, light_recipe_file, run, "--workers", "1-2", "--cluster.cpus", "2", pause=0.1)
    job.wait_until(past(14))
    two_nodes.kill(two_nodes.nodes[0])
    told = job.finish()
    assert "starting again (1 of 3)" in told and "worker 0 of 1 on" in told
    assert_close(run, light_run)


@pytest.mark.slow
def test_when_a_host_comes_the_run_goes_on_with_it_and_repeats_no_step(
    one_node: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    words = ["--workers", "1-2", "--cluster.cpus", "2", "--cluster.resize_every", "2", "--checkpoint.every_steps", "0"]
    job = Job(one_node.address, light_recipe_file, run, *words, pause=0.2)
    job.wait_until(past(4))
    one_node.add()
    told = job.finish()
    assert "worker 0 of 1 on" in told and "worker 1 of 2 on" in told
    assert_close(run, light_run)
    (begun,) = re.findall(r"going on from step (\d+)", told)
    assert int(begun) >= max(int(step) for step in re.findall(r"step (\d+)/40", told.partition("worker 1 of 2")[0]))


@pytest.mark.slow
def test_a_sigterm_to_the_driver_is_followed_by_a_commit_and_the_same_command_goes_on(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    words = ("--workers", "2", "--checkpoint.every_steps", "0")
    job = Job(two_nodes.address, light_recipe_file, run, *words, pause=0.1)
    assert job.stop_when(past(14), signal.SIGTERM) == 128 + signal.SIGTERM, job.log.read_text()
    (step,) = re.findall(r"stopped by SIGTERM at step (\d+)", job.log.read_text())
    assert int(step) >= 14
    assert f"going on from step {step}" in Job(two_nodes.address, light_recipe_file, run, *words).finish()
    assert_close(run, light_run)


@pytest.mark.slow
@pytest.mark.parametrize("told", ["by a signal", "by the end of its pod"])
def test_a_worker_that_has_to_go_commits_first_and_the_run_goes_on_from_there(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket, told: str
) -> None:
    words = ["--workers", "1-2", "--cluster.cpus", "2", "--checkpoint.every_steps", "0", "--cluster.max_failures", "0"]
    job = Job(two_nodes.address, light_recipe_file, run, *words, pause=0.1)
    job.wait_until(past(14))
    if told == "by a signal":
        os.kill(job.workers()[1], signal.SIGTERM)
    else:
        two_nodes.leave(two_nodes.nodes[0])
    log = job.finish()
    (step,) = re.findall(r"have stopped and committed step (\d+)", log)
    assert int(step) >= 14 and f"going on from step {step}" in log
    assert "worker 0 of 1 on" in log or told == "by a signal"
    assert_close(run, light_run)


def test_a_mistake_in_the_recipe_ends_the_job_at_once(two_nodes: Nodes, light_recipe_file: Path, run: Bucket) -> None:
    words = ("--workers", "2", "--model.weights", "missing.weights.h5")
    job = Job(two_nodes.address, light_recipe_file, run, *words, light=False)
    assert job.process.wait(within(120)) == 2
    told = job.log.read_text()
    assert "job.train: error: model.weights = " in told and "starting again" not in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_job_at_once(two_nodes: Nodes, light_recipe_file: Path, run: Bucket) -> None:
    job = Job(two_nodes.address, light_recipe_file, run, "--workers", "2", "--phases.0.learning_rate", "1e30")
    assert job.process.wait(within(120)) == 1
    told = job.log.read_text()
    assert "not finite" in told.splitlines()[-1] and "starting again" not in told


def test_without_room_the_job_says_what_is_lacking(two_nodes: Nodes, light_recipe_file: Path, run: Bucket) -> None:
    words = ("--workers", "3", "--cluster.cpus", "2", "--cluster.start_timeout", "3")
    job = Job(two_nodes.address, light_recipe_file, run, *words)
    assert job.process.wait(within(120)) == 1
    assert "for 3 workers with 2 CPUs and 0 GPUs each: " in job.log.read_text()


@pytest.mark.slow
def test_whatever_is_killed_the_run_ends_as_if_nothing_had_been(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    words = ("--workers", "1-2", "--cluster.cpus", "2", "--cluster.max_failures", "2")
    job = Job(two_nodes.address, light_recipe_file, run, *words, pause=0.3)
    job.wait_until(past(6))
    os.kill(job.workers()[1], signal.SIGKILL)
    job.wait_until(past(12))
    (controller,) = two_nodes.processes("TrainController")
    controller.kill()
    job.wait_until(past(18))
    job.process.kill()
    job = Job(two_nodes.address, light_recipe_file, run, *words, pause=0.3)
    job.wait_until(past(24))
    two_nodes.replace()
    job.wait_until(past(30))
    os.kill(job.workers()[0], signal.SIGKILL)
    job.finish()
    assert_close(run, light_run)


@pytest.mark.slow
def test_the_metrics_of_a_run_are_where_the_dashboard_finds_them(
    two_nodes: Nodes, light_recipe_file: Path, run: Bucket
) -> None:
    # Ray collects them every ten seconds.
    job = Job(two_nodes.address, light_recipe_file, run, "--workers", "2", pause=1.0)
    expected = {f"ray_catdog_{name}" for name in ("train_loss", "train_images_per_s", "val_accuracy")}

    def shown() -> set[str]:
        own = [line for line in two_nodes.metrics().splitlines() if f'run="{run.uri}"' in line]
        return {line.partition("{")[0] for line in own}

    job.wait_until(lambda _: expected <= shown())
    job.process.kill()
