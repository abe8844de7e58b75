"""The folder of a run: what lies in it, and whether there is one."""

import json

from catdog import recipe as recipes
from catdog.errors import CallerError
from catdog.recipe import Recipe
from catdog.storage import Bucket

RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
REPORT = "report.html"
TENSORBOARD = "tensorboard"


def evaluation(split: str, other: str = "") -> str:
    """Where the evaluation on a split lies; `other` is the digest of the data set when it is not the run's own."""
    return f"evaluation/{split}-{other[:8]}" if other else f"evaluation/{split}"


def evaluated_on(run: Bucket) -> str | None:
    """Digest of the data set of the evaluation that ends a run's training, so of the run's own; None before that."""
    name = f"{evaluation('test')}/metrics.json"
    return json.loads(run.read(name))["data"]["digest"] if run.exists(name) else None


def recipe_of(run: Bucket) -> Recipe | None:
    """The recipe that a run was begun with; None where there is no run."""
    content = run.find(RECIPE)
    return None if content is None else recipes.parse(content, f"{run.uri}/{RECIPE}")


def finished_recipe(run: Bucket) -> Recipe:
    """The recipe of a run that has its model; raises CallerError where there is no run or its training is not finished."""
    recipe = recipe_of(run)
    if recipe is None:
        run.list(RECIPE)  # tells of a bucket that is not there
        raise CallerError(f"{run.uri}: there is no run here (no {RECIPE}); give the folder that `catdog train` wrote")
    if not run.exists(MODEL):
        raise CallerError(f"{run.uri}: has no {MODEL}: run `catdog train` again to finish its training")
    return recipe
