"""What a recipe means to a later catdog, whose recipes have more fields."""

from dataclasses import dataclass, field

import pytest

from catdog import __version__
from catdog.errors import CallerError
from catdog.recipe import (
    Augment,
    Phase,
    Recipe,
    added,
    as_begun,
    differences,
    from_table,
    override,
    parse_recipe,
    to_table,
    to_toml,
)

EARLIER = to_toml(Recipe()).encode()
OURS = {"phases.0.views", "phases.1.views", "run.xla"}


@dataclass(frozen=True)
class LaterAugment(Augment):
    grey: float = 0.0
    erase: float = added(0.25, before=0.0)
    mixup: float = added(0.2, before=0.0)


@dataclass(frozen=True)
class LaterPhase(Phase):
    patience: int = added(3, before=0)


@dataclass(frozen=True)
class LaterRecipe(Recipe):
    augment: LaterAugment = field(default_factory=LaterAugment)
    phases: tuple[LaterPhase, ...] = (LaterPhase("one"), LaterPhase("two"))


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.recipe.Recipe", LaterRecipe)


def values(recipe: Recipe) -> tuple[float, float, list[int]]:
    return recipe.augment.grey, recipe.augment.erase, [phase.patience for phase in recipe.phases]  # type: ignore[attr-defined]


def test_a_recipe_that_does_not_set_a_new_field_has_its_default() -> None:
    recipe = parse_recipe(b"[augment]\nflip = false\n", "recipe")
    assert values(recipe) == (0.0, 0.25, [3, 3])
    assert recipe.unset - OURS == {"augment.erase", "augment.mixup", "phases.0.patience", "phases.1.patience"}


def test_what_the_recipe_of_a_run_lacks_is_as_it_was_done_then() -> None:
    recipe = parse_recipe(EARLIER, "recipe", of_run=True)
    assert values(recipe) == (0.0, 0.0, [0, 0]) and not recipe.unset
    assert from_table(to_table(recipe), "commit", of_run=True) == recipe


def test_a_run_of_an_earlier_version_is_the_run_of_the_same_recipe_now() -> None:
    begun, now = parse_recipe(EARLIER, "run", of_run=True), parse_recipe(EARLIER, "recipe")
    assert differences(begun, as_begun(now, begun)) == []
    assert values(as_begun(now, begun)) == (0.0, 0.0, [0, 0])


def test_what_is_set_is_not_taken_from_the_run() -> None:
    begun = parse_recipe(EARLIER, "run", of_run=True)
    now = override(parse_recipe(EARLIER, "recipe"), [("augment.erase", "0.25"), ("phases.1.patience", "0")])
    assert now.unset == {"phases.0.patience"}
    assert differences(begun, as_begun(now, begun)) == ["augment.erase: 0.0 → 0.25"]


def test_a_new_run_has_the_defaults_of_what_is_not_set() -> None:
    recipe = as_begun(parse_recipe(EARLIER, "recipe"), None)
    assert values(recipe) == (0.0, 0.25, [3, 3]) and not recipe.unset


def test_a_new_default_that_does_not_go_with_the_settings_of_a_run_is_none_of_its_business() -> None:
    begun = b"[data]\nglobal_batch = 16\nstreams = 16\n"
    assert parse_recipe(begun, "run", of_run=True).augment.mixup == 0.0
    with pytest.raises(CallerError, match=r"augment\.mixup = 0\.2"):
        parse_recipe(begun, "recipe")


def test_a_phase_that_the_run_does_not_have_is_told_as_a_difference() -> None:
    begun = parse_recipe(EARLIER, "run", of_run=True)
    now = parse_recipe(
        b'[[phases]]\nname = "frozen"\n[[phases]]\nname = "finetune"\n[[phases]]\nname = "x"\n', "recipe"
    )
    assert any(text.startswith("phases.2.name") for text in differences(begun, as_begun(now, begun)))


def test_what_is_not_set_stays_so_on_its_way_to_a_cluster() -> None:
    recipe = parse_recipe(
        b'[augment]\nflip = false\n[[phases]]\nname = "a"\npatience = 1\n[[phases]]\nname = "b"\n', "recipe"
    )
    assert recipe.unset - OURS == {"augment.erase", "augment.mixup", "phases.1.patience"}
    text = to_toml(recipe)
    assert "erase =" not in text and "patience = 3" not in text
    assert parse_recipe(text.encode(), "recipe") == recipe


def test_a_file_names_the_version_that_wrote_it_and_an_unknown_field_is_told_with_it() -> None:
    assert EARLIER.decode().startswith(f'catdog = "{__version__}"\n')
    with pytest.raises(CallerError) as told:
        parse_recipe(b'catdog = "99.0.0"\n[augment]\nhue = 0.1\n', "recipe.toml")
    assert str(told.value) == (
        f"recipe.toml: 'augment.hue' is not a field of a recipe of catdog {__version__}: the file is of catdog 99.0.0;"
        " go on with that one"
    )
    with pytest.raises(CallerError, match=r"'augment\.hue' is not a field of a recipe: [^(]*$"):
        parse_recipe(b"[augment]\nhue = 0.1\n", "recipe.toml")


@pytest.mark.parametrize("version", ["5", "[1]", "{ x = 1 }"])
def test_a_version_that_is_none_is_told(version: str) -> None:
    with pytest.raises(CallerError, match=r"^recipe\.toml: catdog = .*: must be the version that wrote the file"):
        parse_recipe(f"catdog = {version}\n".encode(), "recipe.toml")


@pytest.mark.parametrize(
    "text",
    [
        "data = []",
        "[[data]]",
        "data = [{ side = 96 }]",
        "phases = 5",
        "phases = [5]",
        "phases = [[]]",
        "[data]\nside = [96]",
        '[data]\nuri = ["a"]',
        "[[phases]]\nunfreeze = [1]",
        "[cluster]\nworkers = [1, 2]",
        '[cluster]\nplacement = ["a"]',
        "unset = [{ a = 1 }]",
        "[[unset]]",
    ],
)
@pytest.mark.parametrize("of_run", [False, True])
def test_a_list_where_none_belongs_is_told_in_one_line_of_a_run_too(text: str, of_run: bool) -> None:
    with pytest.raises(CallerError, match=r"^recipe\.toml: ") as told:
        parse_recipe(text.encode(), "recipe.toml", of_run=of_run)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["unset = []", 'unset = ["augment.erase"]'])
def test_what_is_not_set_cannot_be_set(text: str) -> None:
    with pytest.raises(CallerError, match="'unset' is not a field of a recipe"):
        parse_recipe(text.encode(), "recipe")
    with pytest.raises(CallerError, match="'unset' is not a field of a recipe"):
        override(Recipe(), [("unset", "[]")])
