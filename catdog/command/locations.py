"""Where data and runs lie, made sure of before anything that takes long."""

import os
from dataclasses import replace

from catdog.data.shards import load_manifest
from catdog.errors import CallerError
from catdog.recipe import Recipe
from catdog.storage import Folder, expanded, open_bucket


def require_uris(recipe: Recipe) -> None:
    """Raises CallerError for the place of data or run if it is empty or none."""
    for name, uri, option in (("run.uri", recipe.run.uri, "--run"), ("data.uri", recipe.data.uri, "--data.uri")):
        _require_named(name, uri, option)
        open_bucket(uri)


def require_data(recipe: Recipe) -> None:
    """Raises CallerError where there is no data set, or its place is not named."""
    _require_named("data.uri", recipe.data.uri, "--data.uri")
    load_manifest(open_bucket(recipe.data.uri, patience=recipe.storage.patience))


def _require_named(name: str, uri: str, option: str) -> None:
    if not uri:
        raise CallerError(f"{name} is empty: name its place with {option}")


def open_folder(path: str) -> Folder:
    """The bucket at an argument FOLDER; raises CallerError where that is not on this machine."""
    folder = open_bucket(path)
    if not isinstance(folder, Folder):
        raise CallerError(f"{path}: FOLDER must be a path on this machine")
    if folder.local("").is_file():
        raise CallerError(f"{path}: is a file, where FOLDER must be a folder")
    return folder


def absolute(recipe: Recipe) -> Recipe:
    """The recipe as it reads from any folder: with the whole path of each folder and file that it names."""
    model, cache = recipe.model, recipe.cache
    if model.weights not in ("bundled", "imagenet", "none"):
        model = replace(model, weights=_absolute(model.weights))
    return replace(
        recipe,
        data=replace(recipe.data, uri=_absolute(recipe.data.uri)),
        run=replace(recipe.run, uri=_absolute(recipe.run.uri)),
        cache=replace(cache, folder=cache.folder and _absolute(cache.folder)),
        model=model,
    )


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(expanded(uri))
