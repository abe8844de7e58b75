"""What a job takes along to a Ray cluster: its recipe, the code, and the environment variables that were named."""

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import catdog
import job
from catdog.errors import CallerError
from catdog.recipe import Recipe, to_toml

RECIPE = "recipe.toml"

# The files of each package, as pyproject.toml declares them: nothing else that lies among them goes along.
_CODE = {catdog: ("**/*.py", "weights/*", "evaluation/*.html"), job: ("**/*.py", "recipes/*.toml")}


def named(variables: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are named as NAME, with the value that they have here, or as NAME=VALUE.

    Raises CallerError for one that is not set.
    """
    found: dict[str, str] = {}
    for text in variables:
        name, equals, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise CallerError(f"--env {text}: must be NAME or NAME=VALUE, where NAME is an environment variable's")
        if not equals and name not in environment:
            raise CallerError(f"--env {name}: is not set here; set it, or give its value as --env {name}=VALUE")
        found[name] = value if equals else environment[name]
    return found


@contextlib.contextmanager
def working_dir(recipe: Recipe, *, code: bool) -> Iterator[Path]:
    """A folder, for as long as the block lasts, that holds the recipe and, with `code`, the packages that train by it."""
    with tempfile.TemporaryDirectory(prefix="catdog-") as name:
        folder = Path(name)
        (folder / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
        if code:
            for package, patterns in _CODE.items():
                source = Path(package.__path__[0])
                for path in (found for pattern in patterns for found in source.glob(pattern) if found.is_file()):
                    copy = folder / source.name / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
        yield folder
