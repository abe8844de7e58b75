"""The command that trains on a Ray cluster: parse, call, print."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from catdog.command.arguments import parse_command
from catdog.command.locations import absolute, require_data, require_uris
from catdog.command.printing import print_evaluation
from catdog.command.program import DONE
from catdog.errors import tell
from catdog.recipe import load_recipe
from catdog.runs.folder import REPORT

PROGRAM = "job.train"


@dataclass
class Train:
    """Train by a recipe on a Ray cluster: the one that is found (RAY_ADDRESS, or one that runs on this machine), or
    else a local one for as long as it takes.

    Run again it goes on where it stopped, with as many workers as you like. Every field of a recipe may be set by its
    dotted name, as in --data.uri URI or --cluster.gpus 8.

    Example: python -m job.train job/recipes/photos.toml --workers 2 --data.uri bucket/data/photos --run bucket/runs/photos
    """

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """File in TOML with the settings of the run."""
    workers: Annotated[str | None, arg(metavar="N|MIN-MAX", help_behavior_hint="(default: cluster.workers)")] = None
    """Workers that train together, as a rule one a host."""
    run: Annotated[str | None, arg(metavar="RUN_URI", help_behavior_hint="(default: the recipe's run.uri)")] = None
    """Where the run is written, or goes on."""
    settings: list[tuple[str, str]] = field(default_factory=list, init=False)
    """Fields of the recipe and their new values, filled in by `parse_command`."""

    def execute(self) -> int:
        recipe = load_recipe(self.recipe, [*self.settings, ("cluster.workers", self.workers), ("run.uri", self.run)])
        require_uris(recipe)
        recipe = absolute(recipe)
        require_data(recipe)
        from job.driver import train  # here, for Ray takes seconds to import

        print_evaluation(train(recipe))
        tell(f"report {recipe.run.uri}/{REPORT}")
        return DONE


def run(arguments: list[str]) -> int:
    """Run the command and give its exit code."""
    return parse_command(Train, "train", f"python -m {PROGRAM}", arguments).execute()
