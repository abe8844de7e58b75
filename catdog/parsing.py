"""JSON and TOML that anybody may have written: bytes → plain values within bounds, and their fields by type.

What is not so is a ValueError, whose one line says what and where; who reads a file puts its name before it.
"""

import codecs
import json
import math
import re
import sys
import tomllib
import types
import typing
from collections import Counter
from typing import Any

SMALL = 1 << 20
"""Bytes that a file of settings or figures may have; none comes near it."""
DEPTH = 64
"""Tables and lists within each other."""
DIGITS = 100
"""Of a whole number in JSON."""
_TOO_DEEP = f"it is nested more than {DEPTH} deep"
_DOTS = 256
"""On one line of TOML: its parser takes time by the square of a key's parts."""

_KINDS = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    types.NoneType: "null",
}


class NotParsed(ValueError):
    """Bytes that are no text in UTF-8, or text that is not in the format at all."""


def parse_json(content: bytes) -> Any:
    """The value of a JSON text; its numbers are finite, and no object has a name twice. Raises ValueError."""
    text = _text(content)
    try:
        value = json.loads(text, parse_int=_whole, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise NotParsed(str(error)) from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    _check_numbers(value, "")
    return value


def parse_toml(content: bytes) -> dict[str, Any]:
    """The table of a TOML text, in which a number may be of any size, or none, as TOML's `nan`. Raises ValueError."""
    text = _text(content)
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _DOTS:
            raise ValueError(f"line {number}: has more than {_DOTS} dots")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotParsed(str(error)) from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError:  # Python's own limit on the digits that it turns to a number
        found = re.search(rf"[\d_]{{{sys.get_int_max_str_digits()},}}", text)
        number = text.count("\n", 0, found.start() if found else 0) + 1
        raise ValueError(f"line {number}: has a whole number of thousands of digits") from None
    _check_depth(value)
    return value


def entry(table: Any, name: str, kind: Any, where: str = "") -> Any:
    """What an object read from JSON has under a name; raises ValueError unless that is of the annotated type."""
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"{where}{name} is missing or of the wrong type")
    if not fits(table[name], kind):
        found = brief(table[name])
        raise ValueError(f"{where}{name} is missing or of the wrong type: {found}: must be {described(kind)}")
    return table[name]


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of an annotated type: a whole number of at most 64 bits, which is a float too."""
    if kind is Any:
        return True
    if isinstance(kind, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(kind))
    if kind is float:
        return type(value) is float or fits(value, int)
    if type(value) is not (typing.get_origin(kind) or kind):
        return False
    if isinstance(value, dict | list) and typing.get_args(kind):
        inner = typing.get_args(kind)[-1]
        return all(fits(each, inner) for each in (value.values() if isinstance(value, dict) else value))
    return kind is not int or -(2**63) <= value < 2**63


def described(kind: Any) -> str:
    """What a value of an annotated type is, in words."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return " or ".join(_KINDS[typing.get_origin(one) or one] for one in kinds)


def brief(value: object) -> str:
    """A value as Python writes it, on one line of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # Python's own limit on the digits that it writes
        return "a whole number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:120]}... ({len(text):,} characters)"


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; what stands for odd bytes of a file's name cannot."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def is_version(value: object) -> bool:
    """Whether a value may be the version of a program that wrote a file."""
    return isinstance(value, str) and re.fullmatch(r"[\w.+-]{1,40}", value, re.ASCII) is not None


def _text(content: bytes) -> str:
    """The text of a file, with or without the mark that editors on Windows put before UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise NotParsed("it is in UTF-16 or UTF-32, not in UTF-8: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise NotParsed(
            f"line {line}: byte 0x{error.object[error.start]:02x} is none of a text in UTF-8: save it as UTF-8"
        ) from None


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits.lstrip("-")) <= DIGITS else math.inf


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, times), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{brief(name)} is there {times} times in one object")
    return found


def _check_depth(value: Any, depth: int = 0) -> None:
    if isinstance(value, dict | list):
        if depth == DEPTH:
            raise ValueError(_TOO_DEEP)
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, depth + 1)


def _check_numbers(value: Any, place: str) -> None:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            name = key if isinstance(key, int) or re.fullmatch(r"[\w-]{1,40}", key, re.ASCII) else brief(key)
            _check_numbers(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place or 'it'}: must be a finite number of at most {DIGITS} digits")
