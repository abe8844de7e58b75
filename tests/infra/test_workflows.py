"""What can be known of the workflows, Dependabot's file and the scripts without running them; each check is shown to catch
a mistake."""

import re
from pathlib import Path

import pytest
import yaml

from tests.infra.tools import ROOT, run, schema_faults, with_mistake

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
DEPENDABOT = ROOT / ".github" / "dependabot.yml"
SCRIPT = ROOT / ".ci" / "run"


def named(path: Path) -> str:
    return path.name


def faults(path: Path) -> str:
    return schema_faults("github-workflows", path)


def unpinned(path: Path) -> list[str]:
    """Actions of others that are not named by a commit: what a tag stands for can be changed."""
    used = re.findall(r"uses: *(\S+)", path.read_text())
    return [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)]


def scripts(path: Path) -> list[str]:
    """What a workflow's steps run, as scripts of bash in which GitHub's own expressions stand for a word."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    steps = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return ["#!/usr/bin/env bash\n" + re.sub(r"\$\{\{.*?\}\}", "word", step) for step in steps]


def shellcheck(path: Path) -> str:
    return run("shellcheck", path).stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_workflows_are_what_github_reads(path: Path) -> None:
    assert faults(path) == ""
    assert unpinned(path) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_workflows_may_do_no_more_than_they_say(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    granted = {**workflow["permissions"]}
    for job in workflow["jobs"].values():
        granted |= job.get("permissions", {})
        assert job["timeout-minutes"] <= 60
    writes = {name for name, level in granted.items() if level == "write"}
    assert writes <= {"id-token"}
    assert "secrets." not in path.read_text(), "credentials come by workload identity"


def test_a_misspelled_key_of_a_workflow_is_found(tmp_path: Path) -> None:
    assert "timeout-minuts" in faults(with_mistake(WORKFLOWS[0], tmp_path, "timeout-minutes", "timeout-minuts"))


def test_an_action_that_may_change_is_found(tmp_path: Path) -> None:
    wrong = with_mistake(WORKFLOWS[0], tmp_path, "actions/checkout@", "actions/checkout@v5 #")
    assert unpinned(wrong) == ["actions/checkout@v5"]


def test_dependabot_s_file_is_what_github_reads() -> None:
    assert schema_faults("dependabot", DEPENDABOT) == ""


def test_an_ecosystem_that_dependabot_does_not_know_is_found(tmp_path: Path) -> None:
    wrong = with_mistake(DEPENDABOT, tmp_path, "package-ecosystem: docker", "package-ecosystem: dockerfile")
    assert "dockerfile" in schema_faults("dependabot", wrong)


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_shellcheck_finds_nothing_in_the_steps(path: Path, tmp_path: Path) -> None:
    found = scripts(path)
    assert found
    for number, script in enumerate(found):
        step = tmp_path / str(number)
        step.write_text(script)
        assert shellcheck(step) == ""


def test_shellcheck_finds_nothing_in_the_script() -> None:
    assert shellcheck(SCRIPT) == ""


def test_shellcheck_finds_a_variable_without_quotes(tmp_path: Path) -> None:
    wrong = with_mistake(SCRIPT, tmp_path, '"$(dirname "$0")/.."', '$(dirname "$0")/..')
    assert "SC2046" in shellcheck(wrong)
