"""What can be known of the Dockerfiles without building them; each check is shown to catch a mistake."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.tools import ROOT, run, with_mistake

CATDOG, HEAD = ROOT / "Dockerfile", ROOT / "infra" / "ray-head" / "Dockerfile"
DOCKERFILES = [CATDOG, HEAD]
HEAD_LOCK = HEAD.with_name("requirements.lock")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def hadolint(path: Path) -> str:
    done = run("hadolint", "--config", ROOT / ".hadolint.yaml", path)
    return done.stdout + done.stderr


def checkov(path: Path) -> str:
    return run("checkov", "--quiet", "--compact", "--framework", "dockerfile", "--file", path).stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=named)
def test_hadolint_finds_nothing(path: Path) -> None:
    assert hadolint(path) == ""


def test_hadolint_finds_a_base_image_that_may_change(tmp_path: Path) -> None:
    wrong = with_mistake(CATDOG, tmp_path, "3.12-slim-bookworm", "latest\nFROM python:latest")
    assert "DL3007" in hadolint(wrong)


@pytest.mark.parametrize("path", DOCKERFILES, ids=named)
def test_checkov_finds_nothing_in_the_dockerfile(path: Path) -> None:
    told = checkov(path)
    assert "Passed checks: " in told and "Failed checks: 0" in told, told


def test_checkov_finds_a_container_that_runs_as_root(tmp_path: Path) -> None:
    assert "CKV_DOCKER_3" in checkov(with_mistake(CATDOG, tmp_path, "USER 10001:10001\n", ""))


@pytest.mark.parametrize("path", DOCKERFILES, ids=named)
def test_every_builder_understands_the_dockerfile(path: Path) -> None:
    assert not re.search(r"<<|--link|--mount|# *syntax=", path.read_text())


def locked(lock: Path) -> dict[str, str]:
    """The version of each package of a lock."""
    return dict(re.findall(r"^([\w.-]+)==([\w.!+]+)", lock.read_text(), re.MULTILINE))


def replaced(head: Path) -> set[str]:
    """Packages of catdog's image that the head's would replace by another version."""
    ours = [locked(ROOT / name) for name in ("requirements.lock", "requirements-gpu.lock")]
    return {name for name, version in locked(head).items() for lock in ours if lock.get(name, version) != version}


def test_the_heads_image_only_adds_to_catdogs() -> None:
    assert "google-api-python-client" in locked(HEAD_LOCK)
    assert replaced(HEAD_LOCK) == set()


def test_a_head_that_replaces_a_package_is_caught(tmp_path: Path) -> None:
    assert replaced(with_mistake(HEAD_LOCK, tmp_path, "google-auth==", "google-auth==0.")) == {"google-auth"}


def test_what_the_image_is_made_of_installs_and_is_all_that_catdog_needs(tmp_path: Path) -> None:
    """The image's last step of installation, on just the files that it has; its packages are those of `make setup`."""
    text = CATDOG.read_text()
    stage = text[text.index("FROM packages AS catdog") :].partition("\nFROM ")[0]
    source = tmp_path / "source"
    for copied in re.findall(r"^COPY (.*) \S+$", stage, re.MULTILINE):
        for name in copied.split():
            whole = ROOT / name
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(whole, target) if whole.is_dir() else shutil.copy(whole, target)
    (step,) = re.findall(r"^RUN python3 (-m pip .*)$", stage, re.MULTILINE)
    words = step.replace("/opt/venv/bin/python", sys.executable).replace("/package", str(tmp_path / "package")).split()
    words += ["--ignore-installed"]  # else it would take the one of this environment away
    done = subprocess.run([sys.executable, *words], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (installed,) = (tmp_path / "package").rglob("site-packages")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)}
    for module in ("catdog.cli", "job.train", "job.submit", "job.node"):
        told = f"import {module} as module; print(module.__file__)"
        found = subprocess.run(
            [sys.executable, "-P", "-c", told], cwd="/", env=environment, capture_output=True, text=True
        )
        assert found.stdout.startswith(str(installed)), found.stdout + found.stderr
    assert list((tmp_path / "package").rglob("bin/catdog"))
    assert list(installed.glob("catdog/weights/*.h5")) and list(installed.glob("job/recipes/*.toml"))
