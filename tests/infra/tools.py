"""The command line tools that check infra/, and the mistakes that show that they do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    """Where a tool is: in .venv-infra, else on PATH; where it is in neither the test is skipped, but fails in CI."""
    found = shutil.which(name, path=ROOT / ".venv-infra" / "bin") or shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is neither in .venv-infra nor on PATH")
    return found


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What a tool prints, and its exit code."""
    return subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True, timeout=300)


def schema_faults(schema: str, path: Path) -> str:
    """What does not agree with one of the schemas that check-jsonschema has, as in `github-workflows`."""
    done = run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def with_mistake(path: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a file, in another folder, with one mistake in it."""
    text = path.read_text()
    assert old in text
    copy = folder / path.name
    copy.write_text(text.replace(old, new, 1))
    return copy


def readme_command(*words: str) -> str:
    """The one line of infra/README.md with all of these words."""
    lines = (ROOT / "infra" / "README.md").read_text().splitlines()
    (found,) = (line.strip() for line in lines if all(word in line for word in words))
    return found
