"""Whether there is a GPU to run these on. With CATDOG_GPU=pretend they run on the CPU, at small sizes: to try them out."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow as tf

from catdog.training.devices import why_no_gpu
from tests.integration import small

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
    return small.small_recipe(tmp_path_factory.mktemp("small"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PRETEND or tf.config.list_physical_devices("GPU"):
        return
    reason = why_no_gpu("auto") or "there is no GPU here"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
