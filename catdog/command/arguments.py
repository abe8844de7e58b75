"""The words of a command line: settings of a recipe among them, and what is wrong with them, in one line."""

import contextlib
import io
import itertools
import re
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from catdog.errors import CallerError, did_you_mean, hint
from catdog.recipe import Recipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Command = TypeVar("Command", bound="DataclassInstance")


def parse_command(kind: type[Command], name: str, program: str, words: list[str]) -> Command:
    """A command, a dataclass whose fields are its arguments, out of the words after its name.

    Where it has a field `settings`, that takes the settings of a recipe, `--section.field value`. `name` and `program`
    are what it is called in messages and in its help. Raises CallerError, or SystemExit(0) once help has been printed.
    """
    settings_too = any(option.name == "settings" for option in fields(kind))
    words, settings = _split(kind, name, program, words, settings_too=settings_too)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            command = tyro.cli(kind, prog=program, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code:
            raise CallerError(_complaint(name, program, box.getvalue())) from None
        if settings_too:
            print(recipe_help())
        raise
    if settings_too:
        vars(command)["settings"] = settings
    return command


def _split(
    kind: type, name: str, program: str, words: list[str], *, settings_too: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """The words of a command's own arguments, and the settings of a recipe among them."""
    options = [f"--{option.name.replace('_', '-')}" for option in fields(kind) if option.init and _has_default(option)]
    own: list[str] = []
    settings: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if word == "--":
            own += [word, *rest]
        elif not re.match("--|-[a-zA-Z]", word) or option in (*options, "-h", "--help"):
            own.append(word)
        elif not settings_too or ("." not in option and (option[1] != "-" or did_you_mean(option, options))):
            raise CallerError(f"{name} has no option {option}: {hint(option, options)}; see {program} --help")
        else:
            text = value if equals else next(rest, None)
            if text is None or (not equals and text.startswith("--")):
                raise CallerError(f"{name}: {option} lacks its value")
            settings.append((option.removeprefix("--"), text))
    return own, settings


def _has_default(option: Any) -> bool:
    return option.default is not MISSING or option.default_factory is not MISSING


def _complaint(name: str, program: str, box: str) -> str:
    """What the parser complains of in its frame, which it draws with or without Unicode, as one line."""
    lines = [line.strip("│").rstrip() for line in box.splitlines()]
    title = next((number for number, line in enumerate(lines) if re.search(r"\w", line)), 0)
    inside = itertools.dropwhile(lambda line: not re.search(r"\w", line), lines[title + 1 :])
    body = list(itertools.takewhile(lambda line: not re.fullmatch(r"\s*[-─╰╯]+", line), inside))
    text = " ".join(" ".join(body).split())
    if text.startswith("Missing from"):
        deeper = f" {{{body[0].index('M') + 4}}}"  # where a missing argument's name stands; its meaning is deeper still
        lacking = [line.strip() for line in body if re.match(rf"{deeper}\S", line)]
        meaning = text.partition(lacking[0])[2].removesuffix("(required)").strip(" .")
        return (
            f"{name} lacks {' and '.join(lacking)}{f': {meaning}' if len(lacking) == 1 else ''}; see {program} --help"
        )
    if match := re.match(r"Missing value for argument '(.+?)'", text):
        return f"{name}: {match[1]} lacks its value"
    if match := re.match(
        r"Error parsing (\S+): (invalid literal for int|could not convert string to float).*: ('.*')", text
    ):
        return f"{name}: {match[1]} {match[3]}: must be a {'whole ' if 'int' in match[2] else ''}number"
    if match := re.match(r"invalid choice ('.*?') for argument '(.+?)'\. Expected one of \((.*?)\)", text):
        return f"{name}: {match[2]} {match[1]}: must be one of {match[3].replace(chr(39), '')}"
    if match := re.match(r"Unrecognized options: (\S+)", text):
        return f"{name} does not take {match[1]!r}; see {program} --help"
    return f"{name}: {text or 'these arguments are not understood'}; see {program} --help"


def recipe_help() -> str:
    """Every field of a recipe with its default and meaning, as tyro sets it out."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(Recipe, args=["--help"], use_underscores=True, config=(tyro.conf.FlagConversionOff,))
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    first = next(number for number, line in enumerate(lines) if "data options" in line)
    return "\n".join(["Fields of a recipe, with their defaults:", "", *lines[first:]])
