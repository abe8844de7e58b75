"""What catdog uses of Ray beside its public API: it is there, it is named in one place, and what is gone is told."""

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import ray

from catdog.errors import FinalError
from catdog.recipe import Recipe
from job import driver
from job.ray_private import names
from job.ray_private.pieces import (
    CLIENT,
    CLUSTER,
    FREE_BY_NODE,
    ON_MAIN_THREAD,
    REQUEST,
    START_TIMED_OUT,
    VERSION,
    Piece,
    check,
)
from job.submit import commands
from tests.pace import within

ROOT = Path(__file__).parents[2]


def test_the_installed_ray_has_all_that_is_needed() -> None:
    check([*CLUSTER, *CLIENT])


def test_the_version_is_the_one_that_is_installed_and_required() -> None:
    [required] = [
        text
        for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if text.startswith("ray[")
    ]
    assert ray.__version__.startswith(f"{VERSION}.") and required.startswith(f"ray[default,train]>={VERSION},<")


def without(piece: Piece, patch: pytest.MonkeyPatch) -> None:
    """Have Ray be as if a piece had been removed from it."""
    owner = importlib.import_module(piece.module)
    *classes, name = piece.name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    for found in (*getattr(owner, "__mro__", ()), owner):
        if name in vars(found):
            patch.delattr(found, name)


@pytest.mark.parametrize("piece", [FREE_BY_NODE, START_TIMED_OUT, ON_MAIN_THREAD, REQUEST])
def test_a_piece_that_ray_has_no_longer_is_told_in_one_line(piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    without(piece, monkeypatch)
    with pytest.raises(FinalError) as told:
        check([*CLUSTER, *CLIENT])
    assert str(told.value) == (
        f"Ray 2.61.0 no longer has {piece.module}.{piece.name}, which catdog needs to {piece.purpose}: it is written for"
        " Ray 2.60; install ray[default,train]==2.60.*"
    )


def test_so_are_a_module_that_is_gone_and_a_constant_that_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, START_TIMED_OUT.module, None)
        with pytest.raises(FinalError, match=rf"no longer has {START_TIMED_OUT.module}\."):
            check([START_TIMED_OUT])
    [changed] = [piece for piece in CLUSTER if piece.value == names.STORAGE_MARKER]
    monkeypatch.setattr(f"{changed.module}.{changed.name}", ".marker")
    with pytest.raises(FinalError, match=r"VALIDATE_STORAGE_MARKER_FILENAME = '\.validate_storage_marker', which"):
        check(CLUSTER)


def test_both_commands_look_before_they_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(FREE_BY_NODE, monkeypatch)
    without(REQUEST, monkeypatch)
    monkeypatch.setattr(driver, "_cluster", lambda _: pytest.fail("a cluster was looked for"))
    with pytest.raises(FinalError, match="available_resources_per_node"):
        driver.train(Recipe())
    assert commands.run(["status"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("job.submit: failed: Ray ") and "_do_request" in told and told.count("\n") == 1


def test_nothing_private_of_ray_is_named_elsewhere_in_job() -> None:
    private = re.compile(r"\bray\.[\w.]*\b_(?!_)\w+|\bray\.(?:train\.v2|core)\b|\bsuper\(\)\._(?!_)\w+")
    known = {f'"{value}"' for name, value in vars(names).items() if name.isupper()}
    for path in sorted((ROOT / "job").rglob("*.py")):
        if path.parent.name != "ray_private":
            text = path.read_text()
            assert private.findall(text) == [] and [value for value in known if value in text] == [], path


@pytest.mark.parametrize(
    ("module", "texts"),
    [
        ("ray._private.services", [f'"--{names.NODE_ID}=', f'"--{names.NODE_ADDRESS}=', f'"--{names.GCS_ADDRESS}=']),
        ("ray.dashboard.modules.reporter.healthz_agent", [f'"{names.HEALTH}"']),
        ("ray.dashboard.modules.reporter.reporter_head", [f'"{names.DASHBOARD_HEALTH}"']),
        ("ray.dashboard.modules.job.job_supervisor", [f'"{names.STOP_WAIT}"']),
        ("ray.dashboard.modules.job.sdk", [names.LOG_TAIL.replace("{}", "{job_id}")]),
    ],
)
def test_names_that_no_constant_of_rays_holds_are_those_that_it_uses(module: str, texts: list[str]) -> None:
    found = importlib.util.find_spec(module)
    source = Path(found.origin).read_text().replace('f"', '"')
    assert [text for text in texts if text not in source] == []


def test_a_node_is_asked_without_ray_a_job_sent_without_ray_train_and_driven_without_tensorflow() -> None:
    program = """
import sys
from job import node
assert "ray" not in sys.modules
from job.ray_private.pieces import CLIENT, CLUSTER, check
from job.submit import commands
assert "ray" not in sys.modules
check(CLIENT)
from job.submit import jobs
assert "ray.train" not in sys.modules
from job import driver
check(CLUSTER)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=within(300), check=True)
