"""What can be known of infra/gcp/cloudbuild.yaml without an account; each check is shown to catch a mistake."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.tools import ROOT, readme_command, run, schema_faults, with_mistake

BUILD = ROOT / "infra" / "gcp" / "cloudbuild.yaml"


def test_cloud_build_takes_its_file() -> None:
    assert schema_faults("cloudbuild", BUILD) == ""


def test_a_misspelled_field_is_caught(tmp_path: Path) -> None:
    assert "waitsFor" in schema_faults("cloudbuild", with_mistake(BUILD, tmp_path, "waitFor", "waitsFor"))


def ungiven(path: Path) -> set[str]:
    """Variables of the build that the README's command does not give: Google refuses a build that has any."""
    return set(re.findall(r"\$\{(_\w+)\}", path.read_text())) - set(
        re.findall(r"(_\w+)=", readme_command("--substitutions"))
    )


def test_the_readme_gives_the_build_all_its_variables() -> None:
    assert ungiven(BUILD) == set()


def test_a_variable_that_nobody_gives_is_caught(tmp_path: Path) -> None:
    assert ungiven(with_mistake(BUILD, tmp_path, "${_TAG}", "${_VERSION}")) == {"_VERSION"}


@pytest.fixture
def build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(BUILD.read_text())
    return config


def faults(build: dict[str, Any]) -> list[str]:
    """Images that are not run before they are pushed, and steps that wait for one that is not there."""
    steps = build["steps"]
    run_images = {word for step in steps if step["args"][0] == "run" for word in step["args"]}
    ids = {step["id"] for step in steps} | {"-"}
    faults = [f"{image} is not run" for image in build["images"] if image not in run_images]
    return faults + [f"{name} is no step" for step in steps for name in step["waitFor"] if name not in ids]


def test_every_image_runs_before_it_is_pushed(build: dict[str, Any]) -> None:
    assert faults(build) == []


def test_an_image_that_is_pushed_without_a_try_is_caught(build: dict[str, Any]) -> None:
    (tried,) = [step for step in build["steps"] if step["id"] == "run gpu"]
    build["steps"].remove(tried)
    assert faults(build) == ["${_IMAGE}:${_TAG}-gpu is not run"]


def test_cloud_build_is_given_what_images_are_made_of_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".gcloudignore").write_bytes((ROOT / ".gcloudignore").read_bytes())
    state = ["infra/gcp/terraform.tfstate", "infra/gcp/terraform.tfvars", "infra/gcp/.terraform/provider"]
    for name in [
        *state,
        ".env",
        "bucket/cat.jpg",
        ".venv/python",
        "Dockerfile",
        "job/train.py",
        "infra/ray-head/Dockerfile",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    given = run("gcloud", "meta", "list-files-for-upload", tmp_path).stdout.split()
    assert sorted(given) == ["Dockerfile", "infra/ray-head/Dockerfile", "job/train.py"]
    (tmp_path / ".gcloudignore").write_text(".venv\n")
    assert set(state) <= set(run("gcloud", "meta", "list-files-for-upload", tmp_path).stdout.split())
