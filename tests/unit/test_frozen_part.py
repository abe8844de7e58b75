"""The frozen lower part of a model: the same outputs in any place of a pass, and a digest of all that decides them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from catdog.data.augment import DRAWS, augment
from catdog.data.shards import Shard
from catdog.errors import FinalError
from catdog.model import Cut, build, logits, unfreeze
from catdog.recipe import Augment, Data, Model, Recipe, Run
from catdog.training.frozen_part import FrozenPart

RECIPE = Recipe(data=Data(side=32), run=Run(precision="float32"), model=Model(weights="bundled"))
SHARD = Shard("train-00000-of-00001.tfrecord", "train", 100, "0123abcd", "01")


@pytest.fixture(scope="module")
def model() -> Any:
    return build(RECIPE.model, RECIPE.data.side)


def part_of(model: Any, unfrozen: str | int = "none", recipe: Recipe = RECIPE) -> FrozenPart:
    return FrozenPart(tf.distribute.get_strategy(), 1, Cut(model, unfrozen), recipe)


@pytest.fixture(scope="module")
def part(model: Any) -> FrozenPart:
    return part_of(model)


def random_input(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.random((count, DRAWS), np.float32)


@pytest.mark.parametrize("unfrozen", ["none", 3])
def test_the_two_halves_of_a_model_are_the_model_within_half_precision(model: Any, unfrozen: str | int) -> None:
    part, cut = part_of(model, unfrozen), Cut(model, unfrozen)
    images, draws = random_input(part.rows)
    whole = logits(model, augment(tf.constant(images), tf.constant(draws), RECIPE.augment))
    found = part.outputs(tf.constant(images), tf.constant(draws), varied=True)
    assert found.dtype == np.float16 and found.shape == (part.rows, *part.shape)
    np.testing.assert_allclose(cut.logits(tf.constant(found)), whole, atol=2e-2)
    plain = cut.logits(tf.constant(part.outputs(tf.constant(images), tf.constant(draws), varied=False)))
    np.testing.assert_allclose(plain, logits(model, images.astype(np.float32)), atol=2e-2)


@pytest.mark.parametrize("unfrozen", ["none", 3])
def test_what_trains_lies_above_the_cut(model: Any, unfrozen: str | int) -> None:
    unfreeze(model, unfrozen)
    assert Cut(model, unfrozen).below.trainable_variables == []


def test_an_output_has_the_same_bits_in_any_place_and_any_company(part: FrozenPart) -> None:
    images, draws = random_input(3 * part.rows)

    def outputs(order: np.ndarray) -> np.ndarray:
        found = np.empty((len(images), *part.shape), np.float16)
        for places in order.reshape(-1, part.rows):
            found[places] = part.outputs(tf.constant(images[places]), tf.constant(draws[places]), varied=True)
        return found

    straight = outputs(np.arange(len(images)))
    for seed in range(3):
        assert np.array_equal(outputs(np.random.default_rng(seed).permutation(len(images))), straight)


def test_an_output_that_half_precision_cannot_hold_ends_the_run(model: Any) -> None:
    weights = [weight.numpy() for weight in model.layers[0].weights]
    try:
        gamma = next(weight for weight in model.layers[0].weights if weight.path.endswith("top_bn/gamma"))
        gamma.assign(gamma * 1e8)
        part = part_of(model)
        images, draws = random_input(part.rows)
        with pytest.raises(FinalError, match="pool of EfficientNetB0 has outputs that float16 cannot hold"):
            part.outputs(tf.constant(images), tf.constant(draws), varied=True)
    finally:
        for weight, value in zip(model.layers[0].weights, weights, strict=True):
            weight.assign(value)


def test_all_that_decides_an_output_is_in_its_digest(model: Any, part: FrozenPart, monkeypatch: Any) -> None:
    base = part.digests([SHARD], 0)
    assert base == part_of(model).digests([SHARD], 0) and len(base[0]) == 32
    others = [
        part.digests([SHARD], 1),
        part.digests([SHARD], None),
        part.digests([replace(SHARD, crc32c="00000000")], 0),
        part_of(model, 3).digests([SHARD], 0),
        part_of(model, recipe=replace(RECIPE, augment=Augment(flip=False))).digests([SHARD], 0),
        part_of(model, recipe=replace(RECIPE, run=Run(seed=1, precision="float32"))).digests([SHARD], 0),
    ]
    monkeypatch.setattr("catdog.training.frozen_part.device_name", lambda: "another")
    others.append(part.digests([SHARD], 0))
    monkeypatch.undo()
    weight = model.layers[0].weights[5]
    value = weight.numpy()
    weight.assign(value * 2)
    others.append(part_of(model).digests([SHARD], 0))
    weight.assign(value)
    assert len({digest for (digest,) in [base, *others]}) == 1 + len(others)


def test_the_whole_picture_depends_on_no_augmentation(model: Any, part: FrozenPart) -> None:
    varied = replace(RECIPE, augment=Augment(flip=False), run=Run(seed=1, precision="float32"))
    assert part_of(model, recipe=varied).digests([SHARD], None) == part.digests([SHARD], None)
