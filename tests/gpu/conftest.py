"""Whether there is a GPU to run these on. With CATDOG_GPU=pretend they run on the CPU, at small sizes: to try them out."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow as tf

from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.storage import open_bucket
from catdog.training.devices import why_no_gpu
from tests.integration.small import RECIPE, draw_pictures

PRETEND = os.environ.get("CATDOG_GPU") == "pretend"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """Of what is timed."""

    side: int
    batch: int
    steps: int


@pytest.fixture
def size() -> Size:
    return Size(32, 16, 3) if PRETEND else Size(224, 256, 20)


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of four epochs of ten steps, with its data set of 200 drawn pictures."""
    folder = tmp_path_factory.mktemp("small")
    draw_pictures(folder / "pictures")
    data = open_bucket(str(folder / "data"))
    prepare(f"folder:{folder / 'pictures'}", data, PrepareOptions(side=64, shards=4))
    path = folder / "small.toml"
    path.write_text(RECIPE.replace("[data]", f'[data]\nuri = "{data.uri}"'))
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PRETEND or tf.config.list_physical_devices("GPU"):
        return
    reason = why_no_gpu("auto") or "there is no GPU here"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
