"""A small data set and a short recipe that the whole job runs on in seconds."""

from pathlib import Path

import pytest

from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.storage import Bucket, open_bucket
from tests.integration import small_backbone
from tests.integration.forked import spawned
from tests.integration.processes import Process, light
from tests.integration.small import RECIPE, draw_pictures


@pytest.fixture(scope="session")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 200 drawn pictures."""
    pictures = tmp_path_factory.mktemp("pictures")
    draw_pictures(pictures)
    return pictures


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, small_pictures: Path) -> Bucket:
    """The pictures: 160 to train on, 20 each to validate and to test."""
    bucket = open_bucket(str(tmp_path_factory.mktemp("data")))
    prepare(f"folder:{small_pictures}", bucket, PrepareOptions(side=64, shards=4))
    return bucket


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory, small_data: Bucket) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE.replace("[data]", f'[data]\nuri = "{small_data.uri}"'))
    return path


@pytest.fixture(scope="session")
def undisturbed(small_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """A run of the recipe from its start to its end, in a process with hashes and draws of its own."""
    run = open_bucket(str(tmp_path_factory.mktemp("undisturbed") / "run"))
    Process(small_recipe, run, start=spawned).finish()
    return run


@pytest.fixture(scope="session")
def light_recipe(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path) -> Path:
    """The recipe, as a backbone of one block takes it."""
    path = tmp_path_factory.mktemp("recipe") / "light.toml"
    path.write_text(small_recipe.read_text().replace("unfreeze = 2", "unfreeze = 1"))
    return path


@pytest.fixture(scope="session")
def light_run(light_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """A run of it with a backbone of a few hundred weights, undisturbed from its start to its end, in a process as that one."""
    run = open_bucket(str(tmp_path_factory.mktemp("light") / "run"))
    Process(light_recipe, run, command=light(), start=spawned).finish()
    return run


@pytest.fixture
def light_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, too, a model has that backbone."""
    monkeypatch.setattr("catdog.model._backbone", small_backbone.backbone)


@pytest.fixture
def light_recipe_file(light_recipe: Path, tmp_path: Path) -> Path:
    """That recipe in a folder of the test's own, where what it runs may write its logs."""
    path = tmp_path / "light.toml"
    path.write_text(light_recipe.read_text())
    return path
