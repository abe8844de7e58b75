"""Where a recipe's data and run lie."""

from pathlib import Path

import pytest

from catdog.command.locations import absolute
from catdog.recipe import Cache, Data, Model, Recipe, Run

PLACED = Recipe(data=Data(uri="/data"), run=Run(uri="gs://bucket/run"))


def test_paths_are_made_absolute_and_places_in_a_store_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/cat")
    recipe = Recipe(
        data=Data(uri="data/../set"),
        run=Run(uri="~/runs/1"),
        model=Model(weights="mine.weights.h5"),
        cache=Cache(folder="cache"),
    )
    placed = absolute(recipe)
    assert (placed.data.uri, placed.run.uri) == (f"{tmp_path}/set", "/home/cat/runs/1")
    assert (placed.model.weights, placed.cache.folder) == (f"{tmp_path}/mine.weights.h5", f"{tmp_path}/cache")
    assert absolute(PLACED) == PLACED
