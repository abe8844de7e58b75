"""The training step on two workers, each a process that TF_CONFIG tells of the other, against that of one process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catdog.recipe import Data, Model, Optimizer, Phase, Recipe, Run, to_toml
from catdog.storage import Bucket
from catdog.training.state import INITIAL_SCALE
from tests.integration.processes import TfConfigGroup
from tests.integration.worker_steps import STEPS, trace

Trace = dict[str, np.ndarray]


@pytest.fixture
def recipe(small_data: Bucket) -> Recipe:
    data = Data(uri=small_data.uri, side=32, global_batch=16, streams=4)
    model, phases = Model(units=8, dropout=0.5), (Phase("all", unfreeze="all"),)
    return Recipe(data=data, model=model, phases=phases, run=Run(precision="float32"))


def traces_of_two(recipe: Recipe, folder: Path, *, spoilt: bool = False) -> list[Trace]:
    """What each of two workers has traced."""
    path = folder / "recipe.toml"
    path.write_text(to_toml(recipe))
    command = [sys.executable, "-m", "tests.integration.worker_steps", str(path), json.dumps(spoilt)]
    outputs = [folder / f"{worker}.npz" for worker in range(2)]
    with TfConfigGroup([[*command, str(output)] for output in outputs], folder) as cluster:
        assert cluster.wait() == [0, 0], cluster.told(0) + cluster.told(1)
    return [dict(np.load(output)) for output in outputs]


def assert_same(first: Trace, second: Trace) -> None:
    """Both workers have, step by step, the same state to the last bit, and were told the same."""
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def assert_close(workers: Trace, alone: Trace, tolerance: float) -> None:
    assert workers.keys() == alone.keys()
    for name in workers:
        np.testing.assert_allclose(workers[name], alone[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_an_overflow_on_one_of_two_workers_is_skipped_on_both_and_halves_the_scale(
    recipe: Recipe, tmp_path: Path
) -> None:
    first, second = traces_of_two(replace(recipe, run=Run(precision="mixed_float16")), tmp_path, spoilt=True)
    assert_same(first, second)
    assert first["finite"].tolist() == [True, False, True, False, True, True]
    assert np.isfinite(first["loss"]).tolist() == [True, True, True, False, True, True]
    halvings = [0, 0, 1, 1, 2, 2, 2]
    assert first["loss_scale"].tolist() == [INITIAL_SCALE / 2**halved for halved in halvings]
    for kind in ("model/", "optimizer/"):
        arrays = [array for name, array in first.items() if name.startswith(kind)]
        changed = [any((array[step] != array[step + 1]).any() for array in arrays) for step in range(STEPS)]
        assert changed == first["finite"].tolist()
        assert all(np.isfinite(array).all() for array in arrays)


def test_the_averaged_weights_of_two_workers_and_their_validation_are_those_of_one_process(
    recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(recipe, optimizer=Optimizer(ema=0.9))
    first, second = traces_of_two(recipe, tmp_path)
    assert_same(first, second)
    assert_close(first, trace(recipe), 1e-5)
    averages = [name for name in first if name.startswith("average/")]
    assert max(np.abs(first[name] - first[name.replace("average", "model")]).max() for name in averages) > 1e-3


def test_from_scratch_two_workers_have_the_batch_norm_statistics_of_one_process(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, model=replace(recipe.model, weights="none"))
    first, second = traces_of_two(recipe, tmp_path)
    assert_same(first, second)
    # Adam magnifies the last digits of gradients near 0, which sums over other rows change.
    assert_close(first, trace(recipe), 5e-4)
    assert all((first[name][0] != first[name][-1]).any() for name in first if name.startswith("model/"))
