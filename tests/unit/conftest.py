"""What several files of tests work on."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import shard_stores
from brightness import LINE, World, draw, save_model
from pictures import DEEP

from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.recipe import Data, Recipe, to_toml
from catdog.storage import open_bucket


@pytest.fixture
def deep_folder() -> Iterator[Path]:
    """A folder with folders named d in each other.

    Not below tmp_path: pytest, whose way to delete them has a limit, would fail at what an interrupted run has left.
    """
    folder = Path(tempfile.mkdtemp(prefix="catdog-deep-"))
    with contextlib.chdir(folder):
        for _ in range(DEEP):
            os.mkdir("d")
            os.chdir("d")
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Class folders of 24 cats and 24 dogs, of which every fourth has the other class's brightness, and a run."""
    root = tmp_path_factory.mktemp("world")
    for index in range(48):
        label, odd = ("cat", "dog")[index % 2], index // 2 % 4 == 0
        bright = (label == "dog") != odd
        name = f"{'bright' if bright else 'dark'} & <{index:02d}>.{'png' if index % 3 else 'jpg'}"
        draw(root / "photos" / label / name, index, bright=bright)
    data, run = open_bucket(str(root / "data")), open_bucket(str(root / "run"))
    prepare(f"folder:{root / 'photos'}", data, PrepareOptions(shards=2, val=0.25, test=0.5))
    save_model(root / "run/model.keras")
    run.write("recipe.toml", to_toml(Recipe(data=Data(side=96))).encode())
    run.write("metrics.jsonl", LINE.encode())
    return World(run, data, root / "photos")


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy that the test may spoil."""
    shutil.copytree(made.run.uri, tmp_path / "run")
    shutil.copytree(made.data.uri, tmp_path / "data")
    return World(open_bucket(str(tmp_path / "run")), open_bucket(str(tmp_path / "data")), made.photos)


@pytest.fixture(autouse=True)
def only_own_fetchers() -> None:
    """A closed cache does not wait for its threads, which may be waiting for a store themselves."""
    shard_stores.EARLIER.update(shard_stores.fetchers())
