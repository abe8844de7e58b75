"""Runs of earlier versions go on. `run_of_0_1_0` is one as catdog 0.1.0 left it at step 15 of 24, with its data set, and
the end that 0.1.0 itself brought it to; its backbone is that of small_backbone.py."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from catdog import __version__
from catdog.runs.folder import read_commit
from catdog.runs.listing import find_runs
from catdog.storage import open_bucket
from tests.integration.forked import Forked
from tests.integration.processes import light
from tests.pace import within

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEPT = HERE / "run_of_0_1_0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / "run", tmp_path / "run"))


def train(run: Path, *settings: str, stop_at: int = 0, catdog: Path = ROOT) -> tuple[int, str]:
    """The command that began the run, with the catdog of a checkout; its exit code, and what it tells."""
    words = [str(KEPT / "recipe.toml"), "--data.uri", str(KEPT / "data"), "--run", str(run), *settings]
    log = run.with_suffix(".log")
    process = Forked([*light(stop_at), *words], log, os.environ | {"PYTHONPATH": str(catdog)})
    return process.wait(within(300)), log.read_text()


def require_the_end_of_0_1_0(run: Path) -> None:
    """The last state and the validations are those that 0.1.0 came to; another CPU may round otherwise."""
    with np.load(run / "checkpoints/step-00000024/state.npz") as ours, np.load(KEPT / "end/state.npz") as theirs:
        assert ours.files == theirs.files
        for name in theirs.files:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert validations(run) == pytest.approx(validations(KEPT / "end"), rel=1e-4)


def validations(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["split"] == "val"}


def test_a_run_of_0_1_0_goes_on_to_the_end_that_0_1_0_would_have_brought_it_to(run: Path) -> None:
    code, told = train(run)
    assert code == 0, told
    assert "going on from step 15 of 24" in told
    require_the_end_of_0_1_0(run)
    assert f'catdog = "{__version__}"' in (run / "recipe.toml").read_text()
    commit = json.loads((run / "checkpoints/step-00000024/COMMITTED.json").read_text())
    assert commit["catdog"] == __version__
    assert commit["position"]["recipe"]["data"]["side"] == 32
    (summary,) = find_runs(open_bucket(str(run)))
    assert (summary.state, summary.step) == ("done", 24)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catdog of a later version: three more fields in a recipe, of which two do by default what was not done before, a
    field with another default, and one more field in Position."""
    copy = tmp_path_factory.mktemp("later")
    shutil.copytree(ROOT / "catdog", copy / "catdog", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (copy / "tests/integration").mkdir(parents=True)
    shutil.copy(HERE / "small_backbone.py", copy / "tests/integration")
    edit(copy / "catdog/__init__.py", re.escape(__version__), "99.0.0")
    edit(copy / "catdog/recipe.py", "    flip: bool = True\n", "    flip: bool = True\n    grey: float = 0.0\n")
    edit(
        copy / "catdog/recipe.py",
        "    flip: bool = True\n",
        "    erase: float = added(0.25, before=0.0)\n    flip: bool = True\n",
    )
    edit(
        copy / "catdog/recipe.py",
        "    warmup: float = 0.1\n",
        "    warmup: float = 0.1\n    patience: int = added(3, before=0)\n",
    )
    edit(copy / "catdog/recipe.py", "    seed: int = 0\n", "    seed: int = added(1, before=0)\n")
    edit(copy / "catdog/runs/folder.py", "    manifest: str\n", "    manifest: str\n    waited: int = 0\n")
    return copy


def edit(path: Path, before: str, after: str) -> None:
    text, count = re.subn(before, after, path.read_text(), count=1)
    assert count == 1, f"{path} has no {before!r}"
    path.write_text(text)


def test_a_run_of_0_1_0_goes_on_under_a_version_with_more_fields_as_it_was_begun(run: Path, later: Path) -> None:
    code, told = train(run, "--augment.erase", "0.25", catdog=later)
    assert code == 2 and "augment.erase: 0.0 → 0.25" in told
    assert train(run, stop_at=20, catdog=later)[0] == 143
    code, told = train(run, catdog=later)
    assert code == 0, told
    require_the_end_of_0_1_0(run)
    text = (run / "recipe.toml").read_text()
    assert "erase = 0.0\n" in text and "grey = 0.0\n" in text and text.count("patience = 0") == 2


def test_a_run_of_a_later_version_is_refused_with_the_field_that_is_not_known(run: Path, later: Path) -> None:
    assert train(run, stop_at=20, catdog=later)[0] == 143
    code, told = train(run)
    assert code == 2
    assert "'augment.erase' is not a field of a recipe" in told and "of catdog 99.0.0" in told
    (summary,) = find_runs(open_bucket(str(run)))
    assert summary.state == "unreadable" and "augment.erase" in summary.fault
    with pytest.raises(Exception, match=r"position\.waited is nothing that catdog .* is of catdog 99\.0\.0"):
        read_commit(open_bucket(str(run)), 20)


def test_a_new_run_has_the_new_default_and_keeps_it(tmp_path: Path, later: Path) -> None:
    run = tmp_path / "new"
    assert train(run, stop_at=2, catdog=later)[0] == 143
    assert "erase = 0.25\n" in (run / "recipe.toml").read_text()
    assert train(run, stop_at=4, catdog=later)[0] == 143
    code, told = train(run, "--augment.erase", "0.0", catdog=later)
    assert code == 2 and "augment.erase: 0.25 → 0.0" in told


@pytest.mark.parametrize("gone_on", [False, True], ids=["as 0.1.0 left it", "with a commit of this version"])
def test_a_run_whose_recipe_was_edited_since_its_newest_commit_is_refused(run: Path, gone_on: bool) -> None:
    if gone_on:
        assert train(run, stop_at=20)[0] == 143
    edit(run / "recipe.toml", "rotation = 8.0", "rotation = 9.0")
    code, told = train(run, "--augment.rotation", "9.0")
    assert code == 2
    assert ("augment.rotation: 8.0 → 9.0" if gone_on else "recipe.toml, which is another one") in told
    assert "rotation = 9.0" in (run / "recipe.toml").read_text(), "what is refused changes nothing"


def test_checkpoints_without_a_recipe_are_nobodys_to_go_on_with(run: Path) -> None:
    (run / "recipe.toml").unlink()
    code, told = train(run)
    assert code == 2 and "holds checkpoints but no recipe.toml" in told
    assert not (run / "recipe.toml").exists()
