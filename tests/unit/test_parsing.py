"""JSON and TOML from outside: what is taken, and how the rest is told."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.parsing import DEPTH, brief, entry, fits, parse_json, parse_toml

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(10**99), 10**99) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | texts
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)


@given(trees)
def test_what_python_writes_as_json_is_read_back(tree: object) -> None:
    assert parse_json(json.dumps(tree).encode()) == tree


@given(st.binary() | texts.map(str.encode))
def test_any_bytes_are_a_value_or_one_line(content: bytes) -> None:
    told = []
    for parse in (parse_json, parse_toml):
        try:
            parse(content)
        except ValueError as error:
            told.append(str(error))
    assert all(told) and "\n" not in "".join(told)


@pytest.mark.parametrize("text", ['{"side": 96}', "side = 96"], ids=["JSON", "TOML"])
def test_the_mark_that_windows_editors_put_before_utf_8_is_passed_over(text: str) -> None:
    parse = parse_json if text.startswith("{") else parse_toml
    assert parse(text.encode("utf-8-sig")) == {"side": 96}


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ['{"side": 96}', "side = 96"], ids=["JSON", "TOML"])
def test_utf_16_is_told_as_that(text: str, coding: str) -> None:
    with pytest.raises(ValueError, match="UTF-16 or UTF-32, not in UTF-8: save it as UTF-8"):
        (parse_json if text.startswith("{") else parse_toml)(text.encode(coding))


def test_bytes_of_another_coding_are_told_with_their_line() -> None:
    with pytest.raises(ValueError, match="line 2: byte 0xe9 is none of a text in UTF-8"):
        parse_toml('[data]\nuri = "caf\xe9"'.encode("latin-1"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": {"b": [1, NaN]}}', r"a\.b\.1: must be a finite number"),
        (b'{"a": -Infinity}', "a: must be a finite number"),
        (b'{"a": 1e999}', "a: must be a finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a: must be a finite number of at most 100 digits"),
        (b'{"a b\\n": NaN}', r"'a b\\n': must be a finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' is there 2 times"),
        (b'{"a": 1', "line 1 column 8"),
        (b"[" * 100_000, f"nested more than {DEPTH} deep"),
        (b'{"a":' * 100_000, f"nested more than {DEPTH} deep"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), f"nested more than {DEPTH} deep"),
    ],
)
def test_json_without_bounds_is_told_with_its_place(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = 1\nb = " + b"9" * 5000, "line 2: has a whole number of thousands of digits"),
        (b"a = " + b"[" * 100_000, f"nested more than {DEPTH} deep"),
        (b"a." * 100 + b"a = 1", f"nested more than {DEPTH} deep"),
        (b"\n" + b"a." * 300 + b"a = 1", "line 2: has more than 256 dots"),
        (b"a = 1\na = 2\n", "line 2"),
    ],
)
def test_toml_without_bounds_is_told_with_its_line(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_toml(content)


def test_the_longest_keys_that_are_taken_cost_seconds_at_most() -> None:
    line = ".".join("a" * 250) + " = 1\n"
    began = time.monotonic()
    with pytest.raises(ValueError, match="nested"):
        parse_toml(line.encode() + b"".join(f"b{n}.{line}".encode() for n in range(400)))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("value", "kind", "holds"),
    [
        (1, int, True),
        (True, int, False),
        (2**63, int, False),
        (1, float, True),
        (0.5, float, True),
        ("1", float, False),
        (None, float | None, True),
        ([1], list, True),
        ([1, "a"], list[int], False),
        ({"a": 1.0}, dict[str, float], True),
        ({"a": "x"}, dict[str, float], False),
    ],
)
def test_a_value_is_of_a_type_as_json_has_it(value: object, kind: object, holds: bool) -> None:
    assert fits(value, kind) == holds


def test_a_field_of_another_type_is_told_with_what_it_must_be() -> None:
    with pytest.raises(ValueError, match=r"^data\.side is missing or of the wrong type$"):
        entry({}, "side", int, "data.")
    with pytest.raises(ValueError, match=r"data\.side is .*: 'x': must be a whole number or null$"):
        entry({"side": "x"}, "side", int | None, "data.")


def test_a_value_is_shown_on_one_line_however_long_it_is() -> None:
    assert brief("a\nb") == "'a\\nb'"
    assert len(brief("x" * 10_000)) < 200
    assert brief(16**9999) == "a whole number of thousands of digits"
    assert brief(math.nan) == "nan"
