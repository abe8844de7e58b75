"""The options of `catdog prepare`: what they allow, and how they are written."""

import pytest

from catdog.data.options import PrepareOptions, parse_keep
from catdog.errors import CallerError

MISTAKES = [
    ({"side": 31}, "--side 31: must be at least 32 pixels"),
    ({"shards": 0}, "--shards 0: must be from 1 to 99999"),
    ({"shards": 100_000}, "--shards 100000: must be from 1 to 99999"),
    ({"val": -0.1}, "--val -0.1: must be at least 0 and below 1"),
    ({"val": float("nan")}, "--val nan: must be at least 0 and below 1"),
    ({"test": 1.0}, "--test 1.0: must be at least 0 and below 1"),
    (
        {"val": 0.5, "test": 0.5},
        "--val 0.5: must be less than 1 together with --test 0.5, so that something is left to train on",
    ),
    ({"seed": -1}, "--seed -1: must be at least 0"),
    ({"seed": 10**100}, f"--seed {10**100}: must be of at most 100 digits, as the manifest keeps it"),
    ({"side": 10**30}, f"--side {10**30}: must be at most 65500 pixels"),
    ({"keep": {"bird": 0.5}}, "--keep bird=0.5: must be for one of cat, dog"),
    ({"keep": {"cat": 0.0}}, "--keep cat=0.0: must be a part above 0 and at most 1"),
    ({"keep": {"dog": 1.5}}, "--keep dog=1.5: must be a part above 0 and at most 1"),
]


@pytest.mark.parametrize(("options", "told"), MISTAKES, ids=[told.partition(":")[0] for _, told in MISTAKES])
def test_a_value_that_is_not_allowed_is_told_with_what_would_be(options: dict, told: str) -> None:
    with pytest.raises(CallerError) as caught:
        PrepareOptions(**options)
    assert str(caught.value) == told


def test_the_least_and_the_most_are_allowed() -> None:
    PrepareOptions(side=32, shards=1, val=0, test=0, seed=0, keep={"cat": 1.0})
    PrepareOptions(shards=99_999, val=0.9, test=0.09, keep={"cat": 1e-6, "dog": 1e-6})


def test_what_is_kept_is_read_class_by_class_and_the_last_part_of_a_class_holds() -> None:
    assert parse_keep([]) == {}
    assert list(parse_keep(["dog=0.5", "cat=.3", "dog=1"]).items()) == [("dog", 1.0), ("cat", 0.3)]


@pytest.mark.parametrize("text", ["cat", "cat=", "=0.3", "cat=some", "cat=nan", "cow=0.3", "0.3", "cat=0.3=1", ""])
def test_what_is_no_class_with_its_part_is_told(text: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_keep(["dog=0.5", text])
    assert str(caught.value) == f"--keep {text}: must be CLASS=PART, as in cat=0.3, where CLASS is cat or dog"
