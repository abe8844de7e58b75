"""What the image does: alone, as nobody in particular, and as the nodes of a cluster."""

import contextlib
import json
import re
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, ran

LEAST = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
# Podman would raise what this machine may not.
FILES = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
LEAST += (f"--ulimit=nofile={FILES}:{FILES}", "--ulimit=nproc=8192:8192")
TOKEN = "0123456789abcdef" * 4


def in_container(image: str, *words: str, options: tuple[str, ...] = ()) -> str:
    return ran("podman", "run", "--rm", *LEAST, *options, image, *words)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that the containers share, as they would a bucket."""
    tmp_path.chmod(0o777)
    return tmp_path


def test_it_runs_as_nobody_in_particular_and_says_its_version(image: str) -> None:
    assert in_container(image, "catdog", "--version").startswith("catdog ")
    assert in_container(image, "id", "--user").strip() == "10001"
    assert "prepare" in in_container(image)


def test_it_trains_as_any_user_with_a_root_that_it_cannot_write(image: str, shared: Path) -> None:
    options = (f"--volume={shared}:/shared", "--user=12345:12345")
    in_container(image, "catdog", "prepare", "drawn", "/shared/data", options=options)
    recipe = ("job/recipes/quickstart.toml", "--data.uri", "/shared/data", "--run", "/shared/run")
    told = in_container(image, "catdog", "train", *recipe, options=options)
    assert "test accuracy 0.9" in told
    assert (shared / "run" / "report.html").is_file()


def test_a_container_that_trains_commits_when_it_is_stopped(image: str, shared: Path) -> None:
    options = (f"--volume={shared}:/shared",)
    in_container(image, "catdog", "prepare", "drawn", "/shared/data", options=options)
    recipe = ("job/recipes/quickstart.toml", "--data.uri", "/shared/data", "--run", "/shared/run")
    name = ran("podman", "run", "--detach", *LEAST, *options, image, "catdog", "train", *recipe).strip()
    try:
        until(lambda: "step " in logs(name))
        ran("podman", "stop", "--time=60", name)
        assert ran("podman", "wait", name).strip() == "143"
        assert "stopped by SIGTERM" in logs(name)
    finally:
        ran("podman", "rm", "--force", name)


def test_data_runs_and_secrets_stay_out_of_what_is_built_from(image: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    for path in ("bucket/data/cat.jpg", ".env", "key.json", "catdog/cli.py", "job/train.py", ".venv/bin/python"):
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text("x")
    (context / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    ran("buildah", "bud", "--quiet", "--tag=localhost/catdog-context", str(context))
    container = ran("buildah", "from", "localhost/catdog-context").strip()
    try:
        root = Path(ran("buildah", "mount", container).strip())
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
            "catdog/cli.py",
            "job/train.py",
        ]
    finally:
        ran("buildah", "rm", container)
        ran("buildah", "rmi", "localhost/catdog-context")


def test_nothing_in_the_image_looks_like_a_secret(image: str) -> None:
    (description,) = json.loads(ran("podman", "image", "inspect", image))
    variables = {text.partition("=")[0] for text in description["Config"]["Env"]}
    assert variables <= {"PATH", "HOME", "KERAS_HOME", "MPLCONFIGDIR", "PYTHONUNBUFFERED", "LANG", "GPG_KEY"} | {
        name for name in variables if name.startswith("PYTHON_")
    }
    found = in_container(image, "find", "/home", "/opt/venv/bin", "-name", "*.json", "-o", "-name", ".env*")
    assert found == ""


@pytest.fixture
def cluster(image: str, shared: Path) -> Iterator[str]:
    """A head and a worker, a container each, on a network of their own; the network's name."""
    network = "catdog-test"
    ran("podman", "network", "create", network)
    token = (f"--env=RAY_AUTH_TOKEN={TOKEN}", "--env=RAY_AUTH_MODE=token")
    options = ("--detach", *LEAST, *token, f"--network={network}", f"--volume={shared}:/shared", "--shm-size=256m")
    start = ("ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats")
    try:
        head = ("--head", "--dashboard-host=0.0.0.0")
        ran("podman", "run", "--name=head", "--hostname=head", *options, image, *start, *head)
        until(lambda: ready("head"))
        ran("podman", "run", "--name=worker", "--hostname=worker", *options, image, *start, "--address=head:6379")
        until(lambda: ready("worker"))
        for name in ("head", "worker"):
            ran("podman", "healthcheck", "run", name)
        yield network
    finally:
        for name in ("worker", "head"):
            with contextlib.suppress(AssertionError):
                ran("podman", "rm", "--force", "--time=0", name)
        ran("podman", "network", "rm", "--force", network)


def test_two_containers_are_a_cluster_that_takes_a_job_and_go_on_when_one_leaves(
    image: str, cluster: str, shared: Path
) -> None:
    options = (f"--network={cluster}", f"--volume={shared}:/shared")
    in_container(image, "catdog", "prepare", "drawn", "/shared/data", options=options)
    token = (f"--env=RAY_AUTH_TOKEN={TOKEN}", "--env=RAY_AUTH_MODE=token")
    words = ["python", "-m", "job.submit", "job/recipes/quickstart.toml", "--image", "--address=http://head:8265"]
    words += ["--workers=1-2", "--data.uri=/shared/data", "--run=/shared/run"]
    job = subprocess.Popen(
        ["podman", "run", "--rm", *LEAST, *options, *token, image, *words], stdout=subprocess.PIPE, text=True
    )
    until(lambda: "step-" in str(list((shared / "run").glob("checkpoints/*/COMMITTED.json"))))
    ran("podman", "exec", "worker", "python", "-m", "job.node", "leave", "--within=60")
    ran("podman", "stop", "--time=10", "worker")
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 0, told
    assert re.search(r"worker \d of 2 on worker", told) and "worker 0 of 1 on head" in told
    assert "have stopped and committed step" in told, "it left before it was gone"
    assert (shared / "run" / "report.html").is_file()


def ready(name: str) -> bool:
    words = ["podman", "exec", name, "python", "-m", "job.node", "ready"]
    return subprocess.run(words, capture_output=True).returncode == 0


def logs(name: str) -> str:
    done = subprocess.run(["podman", "logs", name], capture_output=True, text=True)
    return done.stdout + done.stderr


def until(reached: object, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(1)
