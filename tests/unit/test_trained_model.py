"""The model that a run has left."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest
from brightness import save_model
from pictures import damaged

from catdog.errors import RunError
from catdog.evaluation.trained_model import load_trained


def test_probabilities_are_those_of_the_model_on_any_number_of_images(world):
    images = np.stack([np.full((96, 96, 3), value, np.uint8) for value in (0, 191, 255)])
    got = load_trained(world.run).probabilities(images)
    sums = 2.0 * 3 * np.array([0, 191, 255]) / 255 - 3.0
    assert got.dtype == np.float64 and got == pytest.approx(1 / (1 + np.exp(-sums)), abs=1e-5)
    assert load_trained(world.run).probabilities(images[:1]) == pytest.approx(got[:1])


def of_a_long_name(whole: bytes) -> bytes:
    """The file of a model whose class has a name of 100,000 letters."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(content, "w") as new:
        for name in {*old.namelist()} - {"config.json"}:
            new.writestr(name, old.read(name))
        config = json.loads(old.read("config.json")) | {"class_name": "a" * 100_000}
        new.writestr("config.json", json.dumps(config))
    return content.getvalue()


@pytest.mark.parametrize(
    "damage",
    [damaged, lambda whole: whole[: len(whole) // 2], lambda _: b"", of_a_long_name],
    ids=["changed", "cut", "empty", "of a long name"],
)
def test_a_model_that_cannot_be_opened_is_named_in_one_line(world, damage):
    world.run.write("model.keras", damage(world.run.read("model.keras")))
    with pytest.raises(RunError, match=r"model\.keras: can't be opened: ") as caught:
        load_trained(world.run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "layers",
    [
        [keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")],
        [keras.Input((96, 96, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")],
        [keras.Input((96, 96, 3)), keras.layers.Dense(1, "sigmoid")],
        [keras.Input((7,)), keras.layers.Dense(1, "sigmoid")],
    ],
    ids=["another side", "two classes", "pictures", "no pictures"],
)
def test_a_model_of_something_else_is_named_in_one_line(world, layers):
    keras.Sequential(layers).save(world.run.local("model.keras"))
    with pytest.raises(
        RunError, match=r"model\.keras: is not a model of this run: it must take .* 96 x 96 x 3"
    ) as caught:
        load_trained(world.run)
    assert "\n" not in str(caught.value)


def test_a_model_that_brings_code_is_not_opened(world):
    layers = [keras.Input((96, 96, 3)), keras.layers.Lambda(lambda images: images[:, 0, 0, :1])]
    keras.Sequential(layers).save(world.run.local("model.keras"))
    with pytest.raises(RunError, match=r"model\.keras: can't be opened: .*(lambda|Lambda)"):
        load_trained(world.run)


def test_a_model_that_gives_no_probabilities_is_told(world):
    save_model(world.run.local("model.keras"), slope=float("nan"))
    with pytest.raises(RunError, match="no probabilities"):
        load_trained(world.run).probabilities(np.zeros((1, 96, 96, 3), np.uint8))
