"""What a recipe takes, what it refuses and how it says so."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import CallerError
from catdog.recipe import (
    BACKBONES,
    Augment,
    Checkpoint,
    Data,
    Loss,
    Model,
    Optimizer,
    Phase,
    Recipe,
    Run,
    as_begun,
    check_replicas,
    check_strategy,
    differences,
    load_recipe,
    override,
    parse_recipe,
    stores,
    to_toml,
)

SECTIONS = [field.name for field in dataclasses.fields(Recipe) if field.name != "unset"]
NAMED = sorted((Path(__file__).parents[2] / "job" / "recipes").glob("*.toml"))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-12, 1e6)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    streams, rows = draw(st.integers(1, 64)), draw(st.integers(1, 8))
    weights = draw(st.sampled_from(["imagenet", "none", "some file.weights.h5"]))
    balance = draw(st.sampled_from(["none", "focal", "oversample"]))
    phase = st.builds(
        Phase,
        name=texts.filter(bool),
        epochs=st.integers(1, 500),
        learning_rate=positive,
        warmup=parts,
        unfreeze=st.just("all") if weights == "none" else st.sampled_from(["none", "all"]) | st.integers(1, 20),
    )
    return Recipe(
        data=Data(draw(texts), draw(st.integers(32, 1024)), streams * rows, streams),
        augment=draw(
            st.builds(
                Augment,
                min_area=st.floats(0.01, 1),
                rotation=st.floats(0, 180),
                brightness=parts,
                mixup=positive if rows > 1 and balance != "oversample" else st.just(0.0),
            )
        ),
        model=Model(draw(st.sampled_from(BACKBONES)), weights, draw(st.integers(1, 4096)), draw(parts)),
        optimizer=draw(
            st.builds(
                Optimizer,
                name=st.just("adamw"),
                weight_decay=positive,
                ema=parts,
                accumulate=st.just(1) if weights == "none" else st.integers(1, 9),
            )
        ),
        loss=draw(st.builds(Loss, balance=st.just(balance), label_smoothing=parts)),
        phases=tuple(draw(st.lists(phase, min_size=1, max_size=4, unique_by=lambda p: p.name))),
        checkpoint=draw(st.builds(Checkpoint, every_steps=st.integers(0, 10**9), every_seconds=positive)),
        run=draw(st.builds(Run, uri=texts, strategy=st.sampled_from(["auto", "cpu:1", "cpu:16"]))),
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(recipe=recipes())
def test_what_is_written_is_read_back_equal(tmp_path_factory, recipe):
    assert load_recipe(write(tmp_path_factory.mktemp("recipe"), to_toml(recipe))) == recipe


def test_every_setting_is_written_the_defaults_too():
    lines = to_toml(Recipe())
    for section in SECTIONS:
        kind = Phase if section == "phases" else type(getattr(Recipe(), section))
        for field in dataclasses.fields(kind):
            assert f"{field.name} = " in lines


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_named_recipes_load(path):
    recipe = load_recipe(path)
    assert [phase.unfreeze == "none" for phase in recipe.phases] == [True, False][: len(recipe.phases)]


def test_the_recipes_that_the_readme_names_are_there():
    assert {"quickstart", "cats_vs_dogs"} <= {path.stem for path in NAMED}


BAD_VALUES = [
    ("data.side", "31", "from 32 to 1024"),
    ("data.side", "1025", "from 32 to 1024"),
    ("data.side", "96.0", "a whole number"),
    ("data.side", "true", "a whole number"),
    ("data.streams", "0", "at least 1"),
    ("data.streams", "7", "a multiple of data.streams (7)"),
    ("data.global_batch", "0", "at least 1"),
    ("data.global_batch", "65", "a multiple of data.streams (16)"),
    ("augment.min_area", "0", "above 0 and at most 1"),
    ("augment.flip", "1", "true or false"),
    ("augment.flip", "yes", "true or false"),
    ("augment.rotation", "181", "from 0 to 180"),
    ("augment.brightness", "1", "below 1"),
    ("augment.contrast", "-0.1", "at least 0"),
    ("augment.saturation", "nan", "finite"),
    ("augment.mixup", "-1", "at least 0"),
    ("augment.mixup", "inf", "finite"),
    ("model.backbone", "EfficientNetB9", "EfficientNetB0"),
    ("model.backbone", "EfficientNetB3", "only EfficientNetB0 is bundled"),
    ("model.weights", "", "'imagenet', 'bundled', 'none' or a file's path"),
    ("model.weights", "none", "'all' when model.weights = 'none'"),
    ("model.units", "0", "at least 1"),
    ("model.dropout", "1", "below 1"),
    ("optimizer.name", "adamm", "one of 'adam', 'adamw' (did you mean 'adam"),
    ("optimizer.name", "3", "one of 'adam', 'adamw'"),
    ("optimizer.weight_decay", "0.1", "choose optimizer.name = 'adamw'"),
    ("optimizer.clip_norm", "-1", "at least 0"),
    ("optimizer.accumulate", "0", "at least 1"),
    ("optimizer.ema", "1", "below 1"),
    ("loss.balance", "ovrsample", "did you mean 'oversample'?"),
    ("loss.focal_gamma", "-1", "at least 0"),
    ("loss.label_smoothing", "1.0", "below 1"),
    ("phases.0.name", "", "a name"),
    ("phases.0.name", "finetune", "phases of different names"),
    ("phases.0.epochs", "0", "at least 1"),
    ("phases.0.epochs", "three", "a whole number"),
    ("phases.1.learning_rate", "0", "above 0"),
    ("phases.1.learning_rate", "1e-3x", "a number"),
    ("phases.0.warmup", "1", "below 1"),
    ("phases.0.views", "-1", "at least 0 and at most 1000000"),
    ("phases.0.unfreeze", "0", "a number of blocks of at least 1"),
    ("phases.0.unfreeze", "most", "'none', 'all'"),
    ("phases.0.unfreeze", "1.5", "text in quotes or a whole number"),
    ("checkpoint.every_steps", "-1", "at least 0"),
    ("checkpoint.every_seconds", "-1", "at least 0"),
    ("checkpoint.keep", "0", "at least 1"),
    ("run.seed", "-1", "from 0 to 2147483647"),
    ("run.seed", "2147483648", "from 0 to 2147483647"),
    ("run.strategy", "gpu:2", "'auto' or 'cpu:N'"),
    ("run.strategy", "cpu:0", "'auto' or 'cpu:N'"),
    ("run.precision", "float16", "one of 'auto', 'float32'"),
    ("run.xla", "yes", "one of 'auto', 'on', 'off'"),
    ("run.log_every", "0", "at least 1"),
    ("storage.patience", "0", "above 0 seconds"),
    ("cache.max_bytes", "0", "above 0"),
    ("cache.ahead", "-1", "at least 0"),
    ("cache.folder", "gs://bucket/cache", "a folder on this machine"),
    ("cache.fetchers", "0", "from 1 to 64"),
    ("cache.fetchers", "65", "from 1 to 64"),
    ("cluster.workers", "0", "'MIN-MAX'"),
    ("cluster.workers", "4-1", "'MIN-MAX'"),
    ("cluster.workers", "two", "'MIN-MAX'"),
    ("cluster.gpus", "-2", "-1 for all of a host"),
    ("cluster.cpus", "0", "at least 1"),
    ("cluster.placement", "PACKED", "did you mean 'PACK'"),
    ("cluster.max_failures", "-1", "at least 0"),
    ("cluster.start_timeout", "0", "above 0 seconds"),
    ("cluster.resize_every", "0", "above 0 seconds"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD_VALUES, ids=[f"{n}={t}" for n, t, _ in BAD_VALUES])
def test_a_bad_value_is_refused_in_one_line_that_tells_what_is_allowed(name, text, allowed):
    with pytest.raises(CallerError) as caught:
        override(Recipe(), [(name, text)])
    message = str(caught.value)
    assert "\n" not in message
    assert allowed in message
    assert name.rpartition(".")[2] in message or "global_batch" in message or "weights" in message
    value = text.lower().removesuffix(".0")
    assert value in message.lower()


@pytest.mark.parametrize(("text", "bounds"), [("3", (3, 3)), ("1-4", (1, 4)), ("2-2", (2, 2))])
def test_workers_are_a_number_or_a_range(text, bounds):
    recipe = override(override(Recipe(), [("cluster.workers", "1-9")]), [("cluster.workers", text)])
    assert recipe.cluster.bounds == bounds
    assert parse_recipe(to_toml(recipe).encode(), "again").cluster.bounds == bounds


def test_each_field_has_a_value_that_is_refused():
    sections = [name for name in SECTIONS if name != "phases"]
    names = {f"{s}.{field.name}" for s in sections for field in dataclasses.fields(getattr(Recipe(), s))}
    names |= {f"phases.{field.name}" for field in dataclasses.fields(Phase)}
    tried = {name.replace(".0.", ".").replace(".1.", ".") for name, _, _ in BAD_VALUES}
    assert names - tried == {"data.uri", "run.uri", "run.deterministic"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[data]\nsid = 96", r"'data\.sid'.*did you mean 'data\.side'"),
        ("[dat]\nside = 96", r"'dat'.*did you mean 'data'"),
        ("[[phases]]\nepoch = 1", r"'phases\.0\.epoch'.*did you mean 'phases\.0\.epochs'"),
        ("[qqqq]", r"'qqqq'.*there are data, augment"),
        ("data = 3", r"data = 3: must be a table"),
        ("phases = []", r"phases = \[\]: must be at least one"),
        ("[phases]\nepochs = 1", r"phases = .*must be a list of tables, \[\[phases\]\]"),
        ("phases = [3]", r"phases\.0 = 3: must be a table"),
        ('[data]\nside = "96"', r"data\.side = '96': must be a whole number"),
        ("[data]\nuri = 3", r"data\.uri = 3: must be text in quotes"),
        ("[data]\nuri = [1]", r"data\.uri = \[1\]: must be text in quotes"),
        ("side = 3 4\n", "is not a recipe in TOML.*line 1"),
        ("[data]\nside = 96\nside = 97\n", "is not a recipe in TOML.*line 3"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_in_one_line(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(CallerError, match=told) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


LIMITS = [
    ("data.streams", 99_999),
    ("data.global_batch", 1_000_000),
    ("model.units", 65_536),
    ("optimizer.accumulate", 1_000_000),
    ("phases.0.epochs", 1_000_000),
    ("phases.0.unfreeze", 1000),
    ("checkpoint.every_steps", 2**31 - 1),
    ("checkpoint.keep", 2**31 - 1),
    ("cache.max_bytes", 2**63 - 1),
    ("cache.ahead", 1_000_000),
    ("cluster.gpus", 1024),
    ("cluster.cpus", 4096),
    ("cluster.max_failures", 2**31 - 1),
    ("run.seed", 2**31 - 1),
    ("run.log_every", 2**31 - 1),
]


@pytest.mark.parametrize(("name", "most"), LIMITS)
@pytest.mark.parametrize("value", ["1" + "0" * 30, "9" * 5000, "0x" + "f" * 9999])
def test_a_whole_number_without_bounds_is_told_with_its_range(name, most, value):
    with pytest.raises(CallerError, match=name.rpartition(".")[2]) as caught:
        override(Recipe(), [(name, value)])
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert str(most) in str(caught.value) or value.startswith("9")


@pytest.mark.parametrize(("name", "most"), LIMITS)
def test_the_most_that_a_whole_number_may_be_is_taken(name, most):
    with_it = [("data.streams", "1")] if name == "data.global_batch" else []
    with_it += [("data.global_batch", str(most))] if name == "data.streams" else []
    override(Recipe(), [(name, str(most)), *with_it])


def test_each_whole_number_has_a_limit():
    sections = [getattr(Recipe(), name) for name in SECTIONS if name != "phases"]
    whole = {f"{name}.{f.name}" for name, s in zip((n for n in SECTIONS if n != "phases"), sections, strict=True)
             for f in dataclasses.fields(s) if type(getattr(s, f.name)) is int}  # fmt: skip
    assert whole - {name for name, _ in LIMITS} == {"data.side", "cache.fetchers", "cluster.workers"}  # in BAD_VALUES


def test_a_recipe_that_a_windows_editor_has_saved_is_read_and_utf_16_told_as_such(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(to_toml(Recipe()).encode("utf-8-sig"))
    assert load_recipe(path) == Recipe()
    path.write_bytes(to_toml(Recipe()).encode("utf-16"))
    with pytest.raises(CallerError, match=r"recipe\.toml: is not a recipe in TOML: it is in UTF-16"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[data]\nside = " + b"9" * 5000, "line 2: has a whole number of thousands of digits"),
        (b"[data]\nside = 0x" + b"f" * 5000, "data.side = .*: must be"),
        (b"x = " + b"[" * 50_000, "nested"),
        (b'catdog = "99\\u001b[2J"\nx = 1', "catdog = .*: must be the version"),
        (b"[cluster]\nworkers = 0x" + b"f" * 5000, "cluster.workers = .*: must be"),
        (b"[model]\nbackbone = 0x" + b"f" * 5000, "model.backbone = .*: must be"),
        (b"[loss]\nbalance = 0x" + b"f" * 5000, "loss.balance = .*: must be"),
        (b"[augment]\nrotation = 1" + b"0" * 400, "augment.rotation = .*: must be"),
    ],
)
def test_a_recipe_within_no_bounds_is_told_in_one_line(content, told):
    with pytest.raises(CallerError, match=told) as caught:
        parse_recipe(content, "recipe.toml")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_recipe_that_is_too_large_for_one_is_not_read(tmp_path):
    path = tmp_path / "recipe.toml"
    with open(path, "wb") as file:
        file.truncate(10_000_000_000)  # takes no room on the disk
    with pytest.raises(CallerError, match="is no recipe: it has more than 1,048,576 bytes"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["phases." + "9" * 5000 + ".epochs", "phases.\u0663.epochs", "phases.-1.epochs"])
def test_a_phase_of_an_odd_number_is_none(name):
    with pytest.raises(CallerError, match="there is no such phase"):
        override(Recipe(), [(name, "3")])


def test_text_that_cannot_be_written_is_refused():
    with pytest.raises(CallerError, match=r"run\.uri = .*: must be text in UTF-8"):
        override(Recipe(), [("run.uri", "caf\udce9")])


def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xd8\xff\x00")
    missing = tmp_path / "missing.toml"
    for path, told in [
        (missing, "there is no such recipe"),
        (tmp_path, "cannot be read"),
        (binary / "inside.toml", "cannot be read"),
        (binary, "is not a recipe in TOML"),
    ]:
        with pytest.raises(CallerError, match=told) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data.side", "224", 224),
        ("data.uri", "bucket/my data", "bucket/my data"),
        ("data.uri", "'quoted'", "quoted"),
        ("data.uri", "2024", "2024"),
        ("data.uri", "true", "true"),
        ("data.uri", "😀/ü", "😀/ü"),
        ("augment.flip", "false", False),
        ("augment.flip", "False", False),
        ("augment.rotation", "5", 5.0),
        ("phases.0.learning_rate", "1e-4", 1e-4),
        ("phases.1.unfreeze", "3", 3),
        ("phases.1.unfreeze", "all", "all"),
        ("run.precision", "mixed_bfloat16", "mixed_bfloat16"),
    ],
)
def test_an_override_has_the_type_of_its_field_and_changes_nothing_else(name, text, value):
    changed = override(Recipe(), [(name, text)])
    here: object = changed
    for part in name.split("."):
        here = here[int(part)] if isinstance(here, tuple) else getattr(here, part)
    assert here == value and type(here) is type(value)
    assert all(line.startswith(f"{name}: ") for line in differences(Recipe(), changed))
    assert override(changed, [(name, _as_text(Recipe(), name))]) == Recipe()


def _as_text(recipe: Recipe, name: str) -> str:
    here: object = recipe
    for part in name.split("."):
        here = here[int(part)] if isinstance(here, tuple) else getattr(here, part)
    return str(here)


def test_fields_that_depend_on_each_other_change_together():
    changed = override(Recipe(), [("data.streams", "7"), ("data.global_batch", "14")])
    assert (changed.data.streams, changed.data.global_batch) == (7, 14)
    swapped = override(Recipe(), [("phases.0.name", "finetune"), ("phases.1.name", "frozen")])
    assert [phase.name for phase in swapped.phases] == ["finetune", "frozen"]


def test_mixup_of_neighbours_is_refused_where_classes_take_turns():
    oversample, mixup = ("loss.balance", "oversample"), ("augment.mixup", "0.2")
    for allowed in (oversample, mixup):
        override(Recipe(), [allowed])
    with pytest.raises(CallerError) as caught:
        override(Recipe(), [oversample, mixup])
    message = str(caught.value)
    assert message.startswith("augment.mixup = 0.2: must be 0 with loss.balance = 'oversample'") and "\n" not in message


def test_the_last_of_two_overrides_of_a_field_wins():
    assert override(Recipe(), [("data.side", "64"), ("data.side", "128")]).data.side == 128


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("data.sise", "did you mean 'data.side'"),
        ("data.global-batch", "did you mean 'data.global_batch'"),
        ("side", "did you mean 'data.side'"),
        ("data.side.pixels", "is not a field"),
        ("data", "is not a field"),
        ("phases", "is not a field"),
        ("phases.0", "is not a field"),
        ("phases.0.epoch", "did you mean 'phases.0.epochs'"),
        ("phases.2.epochs", "has phases.0, phases.1"),
        ("phases.-1.epochs", "has phases.0, phases.1"),
        ("phases.².epochs", "has phases.0, phases.1"),
        ("phases.frozen.epochs", "has phases.0, phases.1"),
        ("", "is not a field"),
    ],
)
def test_an_override_of_what_is_no_field_is_refused(name, told):
    with pytest.raises(CallerError) as caught:
        override(Recipe(), [(name, "1")])
    assert repr(name) in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_may_go_on_in_another_place_but_not_with_another_computation():
    free = [
        ("data.uri", "x"),
        ("run.uri", "y"),
        ("run.strategy", "cpu:2"),
        ("run.log_every", "3"),
        ("cache.ahead", "1"),
    ]
    free += [("checkpoint.keep", "9"), ("checkpoint.every_steps", "5"), ("checkpoint.every_seconds", "0")]
    moved = override(Recipe(), free)
    assert moved != Recipe() and differences(Recipe(), moved) == []
    other = override(moved, [("run.seed", "1"), ("phases.1.epochs", "4"), ("data.side", "64")])
    assert differences(Recipe(), other) == ["data.side: 96 → 64", "phases.1.epochs: 1 → 4", "run.seed: 0 → 1"]


def test_a_phase_more_is_a_difference():
    more = dataclasses.replace(Recipe(), phases=(*Recipe().phases, Phase("last", unfreeze="all")))
    assert any(line.startswith("phases.2.name: ") for line in differences(Recipe(), more))


@pytest.mark.parametrize(
    ("settings", "replicas", "told"),
    [
        ([], 17, "data.streams = 16: must be at least the number of replicas, 17"),
        (
            [("optimizer.accumulate", "8")],
            16,
            "optimizer.accumulate = 8: must divide the 4 rows that each of 16 replicas has",
        ),
        (
            [("model.weights", "none"), ("phases.0.unfreeze", "all")],
            3,
            "data.streams = 16: must be a multiple of the 3 replicas when model.weights = 'none'",
        ),
    ],
)
def test_a_number_of_replicas_that_cannot_share_the_batch_is_refused(settings, replicas, told):
    recipe = override(Recipe(data=Data(global_batch=64, streams=16)), settings)
    check_replicas(recipe, 2)
    with pytest.raises(CallerError) as caught:
        check_replicas(recipe, replicas)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


def test_replicas_that_have_fewer_streams_than_others_are_allowed():
    check_replicas(Recipe(data=Data(global_batch=64, streams=16)), 3)


def test_several_workers_take_the_strategy_auto_only():
    check_strategy("cpu:2", 1)
    check_strategy("auto", 2)
    with pytest.raises(CallerError, match=r"run\.strategy = 'cpu:2': must be 'auto' among several workers"):
        check_strategy("cpu:2", 2)


@pytest.fixture
def later(monkeypatch):
    """As if data.side had come with this version, and those before it had done what 64 means."""
    monkeypatch.setattr(Data.__dataclass_fields__["side"], "metadata", {"before": 64})


@pytest.mark.usefixtures("later")
def test_a_run_begun_before_there_was_a_field_goes_on_as_it_was_begun():
    begun, now = parse_recipe(b"", "run", of_run=True), parse_recipe(b"", "now")
    assert (begun.data.side, now.data.side) == (64, 96)
    assert as_begun(now, begun).data.side == 64 and as_begun(now, None).data.side == 96
    assert differences(begun, as_begun(now, begun)) == []
    assert "side = " not in to_toml(now) and "side = 96" in to_toml(as_begun(now, None))


@pytest.mark.usefixtures("later")
def test_a_field_that_someone_has_set_is_as_it_was_set():
    begun = parse_recipe(b"", "run", of_run=True)
    for now in (parse_recipe(b"[data]\nside = 128", "now"), override(parse_recipe(b"", "now"), [("data.side", "128")])):
        assert as_begun(now, begun).data.side == 128
        assert "side = 128" in to_toml(now)


def test_a_field_that_only_another_version_knows_is_refused_with_both_versions():
    with pytest.raises(
        CallerError, match=r"^mine: 'data\.new' is not a field of a recipe of catdog \d.*: the file is of catdog 99\.0;"
    ):
        parse_recipe(b'catdog = "99.0"\n[data]\nnew = 1', "mine")


def test_views_are_refused_where_pictures_are_mixed_anew() -> None:
    mixed = override(Recipe(), [("augment.mixup", "0.2")])
    assert not stores(mixed, mixed.phases[0]) and stores(Recipe(), Recipe().phases[0])
    with pytest.raises(CallerError, match=r"phases 'frozen': views = 2: must be 0 with augment\.mixup"):
        override(mixed, [("phases.0.views", "2")])


def test_a_run_of_before_there_were_views_augments_anew_in_each_epoch() -> None:
    earlier = parse_recipe(b'[[phases]]\nname = "frozen"\n', "recipe", of_run=True)
    assert [phase.views for phase in earlier.phases] == [0]
