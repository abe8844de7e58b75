"""A small data set and a short recipe that the whole job runs on in seconds."""

from pathlib import Path

import pytest

from catdog.data import drawn
from catdog.data.prepare import prepare
from catdog.storage import Bucket, open_bucket
from tests.integration.processes import Process

RECIPE = """
[data]
side = 32
global_batch = 16
streams = 4
[model]
units = 16
[run]
precision = "float32"
log_every = 2
[checkpoint]
every_steps = 3
[[phases]]
name = "frozen"
epochs = 2
learning_rate = 1e-2
[[phases]]
name = "finetune"
epochs = 2
learning_rate = 1e-3
unfreeze = 2
"""
"""Four epochs of ten steps."""


@pytest.fixture(scope="session")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 200 drawn pictures."""
    pictures = tmp_path_factory.mktemp("pictures")
    for index in range(200):
        content, label = drawn.draw(0, index)
        folder = pictures / ("dog" if label else "cat")
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.jpg").write_bytes(content)
    return pictures


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, small_pictures: Path) -> Bucket:
    """The pictures: 160 to train on, 20 each to validate and to test."""
    bucket = open_bucket(str(tmp_path_factory.mktemp("data")))
    prepare(f"folder:{small_pictures}", bucket, side=64, shards=4)
    return bucket


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory, small_data: Bucket) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE.replace("[data]", f'[data]\nuri = "{small_data.uri}"'))
    return path


@pytest.fixture(scope="session")
def undisturbed(small_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """A run of the recipe from its start to its end."""
    run = open_bucket(str(tmp_path_factory.mktemp("undisturbed") / "run"))
    Process(small_recipe, run).finish()
    return run
