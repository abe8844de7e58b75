"""Where a recipe's data and run lie, made sure of before anything that takes long."""

from pathlib import Path

from catdog import recipe as recipes
from catdog.data.shards import load_manifest
from catdog.errors import CallerError
from catdog.recipe import Recipe
from catdog.storage import Folder, open_bucket


def check_places(recipe: Recipe) -> None:
    """Raises CallerError for a URI that is none, and where there is no data set."""
    if not recipe.run.uri:
        raise CallerError("run.uri is empty: name the run's folder with --run")
    open_bucket(recipe.run.uri)
    if not recipe.data.uri:
        raise CallerError("data.uri is empty: name the data set with --data.uri")
    load_manifest(open_bucket(recipe.data.uri, patience=recipe.storage.patience))


def absolute(recipe: Recipe) -> Recipe:
    """The recipe with the whole path of each folder and file that it names, for a process that stands elsewhere."""
    uris = {"data.uri": recipe.data.uri, "run.uri": recipe.run.uri}
    paths = {name: uri for name, uri in uris.items() if uri and isinstance(open_bucket(uri), Folder)}
    if recipe.model.weights not in ("bundled", "imagenet", "none"):
        paths["model.weights"] = recipe.model.weights
    if recipe.cache.folder:
        paths["cache.folder"] = recipe.cache.folder
    return recipes.override(recipe, [(name, str(Path(path).expanduser().absolute())) for name, path in paths.items()])
