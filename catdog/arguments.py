"""The words of a command line: settings of a recipe among them, and what is wrong with them, in one line."""

import contextlib
import difflib
import io
import itertools
import re
from dataclasses import MISSING, fields
from typing import Any

import tyro

from catdog.errors import CallerError
from catdog.recipe import Recipe


def split_words(
    name: str, kind: type, words: list[str], *, settings_too: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """The words of a command, whose arguments are the fields of `kind`, and the settings of a recipe among them.

    A setting is `--section.field value`. Raises CallerError for an option that there is not.
    """
    options = [f"--{option.name}" for option in fields(kind) if option.init and _has_default(option)]
    own: list[str] = []
    settings: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if word == "--":
            own += [word, *rest]
        elif not re.match("--|-[a-zA-Z]", word) or option in (*options, "-h", "--help"):
            own.append(word)
        elif not settings_too or ("." not in option and (option[1] != "-" or _near(option, options))):
            raise CallerError(f"{name} has no option {option}: {hint(option, options)}; see catdog {name} --help")
        else:
            text = value if equals else next(rest, None)
            if text is None or (not equals and text.startswith("--")):
                raise CallerError(f"{name}: {option} lacks its value")
            settings.append((option.removeprefix("--"), text))
    return own, settings


def _has_default(option: Any) -> bool:
    return option.default is not MISSING or option.default_factory is not MISSING


def complaint(name: str, box: str) -> str:
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
        return f"{name} lacks {' and '.join(lacking)}{f': {meaning}' if len(lacking) == 1 else ''}; see catdog {name} --help"
    if match := re.match(r"Missing value for argument '(.+?)'", text):
        return f"{name}: {match[1]} lacks its value"
    if match := re.match(
        r"Error parsing (\S+): (invalid literal for int|could not convert string to float).*: ('.*')", text
    ):
        return f"{name}: {match[1]} {match[3]}: must be a {'whole ' if 'int' in match[2] else ''}number"
    if match := re.match(r"invalid choice ('.*?') for argument '(.+?)'\. Expected one of \((.*?)\)", text):
        return f"{name}: {match[2]} {match[1]}: must be one of {match[3].replace(chr(39), '')}"
    if match := re.match(r"Unrecognized options: (\S+)", text):
        return f"{name} does not take {match[1]!r}; see catdog {name} --help"
    return f"{name}: {text or 'these arguments are not understood'}; see catdog {name} --help"


def recipe_help() -> str:
    """Every field of a recipe with its default and meaning, as tyro sets it out."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(Recipe, args=["--help"], use_underscores=True, config=(tyro.conf.FlagConversionOff,))
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    first = next(number for number, line in enumerate(lines) if "data options" in line)
    return "\n".join(["Fields of a recipe, with their defaults:", "", *lines[first:]])


def _near(word: str, known: list[str]) -> str:
    """The known word that is most like this one, or an empty text."""
    return next(iter(difflib.get_close_matches(word, known, 1)), "")


def hint(word: str, known: list[str]) -> str:
    near = _near(word, known)
    if near:
        return f"did you mean {near}?"
    return f"there are {', '.join(known)}" if known else "it takes none"
