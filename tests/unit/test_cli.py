"""What the `catdog` command prints where, and the code with which it ends."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brightness import draw, save_model
from pictures import damaged
from PIL import Image

from catdog import cli
from catdog.data.shards import load_manifest
from catdog.recipe import VERSION_KEY, Data, Recipe, to_toml
from catdog.storage import open_bucket
from tests.pace import within

SIDE = 32
QUICKSTART = str(Path(__file__).parents[2] / "job" / "recipes" / "quickstart.toml")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 20 dark cats and 20 bright dogs."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(40):
        draw(folder / ("cat", "dog")[index % 2] / f"{index:02d}.png", index, bright=index % 2 == 1, size=(48, 40))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    assert cli.run(["prepare", f"folder:{photos}", str(folder), "--shards", "4"]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished run, whose model calls bright pictures dogs."""
    folder = tmp_path_factory.mktemp("run")
    save_model(folder / "model.keras", SIDE)
    open_bucket(str(folder)).write("recipe.toml", to_toml(Recipe(data=Data(uri=str(data), side=SIDE))).encode())
    return folder


def mistake(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which the command refuses, without its prefix."""
    assert cli.run([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("catdog: error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("catdog: error: ").rstrip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian", "x"], "'trian' is not a command: did you mean train?"),
        (["qqq"], "'qqq' is not a command: there are prepare, verify, plan, train, evaluate, predict"),
        (["--verbose"], "'--verbose' is not a command"),
        (["prepare"], "prepare lacks SOURCE and DATA_URI"),
        (["prepare", "drawn"], "prepare lacks DATA_URI: Where the data set is written"),
        (["prepare", "drawn", "x", "--sidee", "5"], "prepare has no option --sidee: did you mean --side?"),
        (["prepare", "--sidee", "5", "drawn", "x"], "prepare has no option --sidee: did you mean --side?"),
        (["prepare", "drawn", "x", "--side", "big"], "prepare: --side 'big': must be a whole number"),
        (["prepare", "drawn", "x", "--val=half"], "prepare: --val 'half': must be a number"),
        (["prepare", "drawn", "x", "--side"], "prepare: --side lacks its value"),
        (["prepare", "drawn", "x", "--side", "5"], "--side 5: must be at least 32 pixels"),
        (["prepare", "drawn", "x", "y"], "prepare does not take 'y'"),
        (["prepare", "drawing", "x"], "'drawing' is not a source: give drawn, folder:PATH or tfds:cats_vs_dogs"),
        (["prepare", "folder:/none/here", "x"], "folder:/none/here: there is no such folder or zip file"),
        (["prepare", "drawn", "s3://bucket/x"], "s3://bucket/x: s3:// is not supported"),
        (["prepare", "drawn", ""], "an empty URI"),
        (["verify"], "verify lacks DATA_URI"),
        (["verify", "x", "--json"], "verify has no option --json: it takes none"),
        (["verify", "-v", "x"], "verify has no option -v"),
        (["verify", "/none/here"], "/none/here: no such folder; write one with `catdog prepare SOURCE /none/here`"),
        (["train"], "train lacks RECIPE"),
        (["train", "/none.toml"], "/none.toml: there is no such recipe"),
        (["train", "a.toml", "b.toml"], "train does not take 'b.toml'"),
        (["train", QUICKSTART, "--rnu", "x"], "train has no option --rnu: did you mean --run?"),
        (["train", QUICKSTART, "--run"], "train: --run lacks its value"),
        (["train", QUICKSTART, "--data.uri"], "train: --data.uri lacks its value"),
        (["train", QUICKSTART, "--data.uri", "--run", "x"], "train: --data.uri lacks its value"),
        (
            ["train", QUICKSTART, "--data.sise", "9"],
            "'data.sise' is not a field of a recipe: did you mean 'data.side'?",
        ),
        (["train", "--epochs", "9", QUICKSTART], "'epochs' is not a field of a recipe: did you mean"),
        (["train", QUICKSTART, "--data.side", "big"], "data.side = 'big': must be a whole number"),
        (["train", QUICKSTART, "--data.streams", "7"], "must be a multiple of data.streams (7)"),
        (["train", QUICKSTART, "--data.uri", "/none/here"], "/none/here: no such folder"),
        (["train", QUICKSTART, "--data.uri="], "data.uri is empty: name its place with --data.uri"),
        (["train", QUICKSTART, "--run", ""], "run.uri is empty: name its place with --run"),
        (["evaluate", "/none/here"], "/none/here: there is no run here"),
        (["evaluate", "x", "--split", "tset"], "evaluate: --split 'tset': must be one of train, val, test"),
        (["predict", "/none/here", "x.jpg"], "/none/here: there is no run here"),
        (["predict", "x"], "predict lacks IMAGE"),
        (["predict", "x", "a.jpg", ""], "an IMAGE is empty"),
        (["predict", "x", "y.jpg", "--jsn"], "predict has no option --jsn: did you mean --json?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line_that_says_what_would_be_right(arguments, told, capsys):
    assert told in mistake(arguments, capsys)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_message_does_not_depend_on_what_the_terminal_can_show(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "catdog", "prepare", "drawn"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2
    told = "catdog: error: prepare lacks DATA_URI: Where the data set is written; see catdog prepare --help\n"
    assert done.stderr == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[data]\nsise = 9", "'data.sise' is not a field of a recipe: did you mean 'data.side'?"),
        ("[data]\nstreams = 7", "must be a multiple of data.streams (7)"),
        ("# Shopping\n- milk", "is not a recipe in TOML"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_file(text, told, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    line = mistake(["train", path], capsys)
    assert line.startswith(f"{path}: ") and told in line


def test_an_empty_bucket_and_a_broken_manifest_are_told(tmp_path, capsys):
    for command in (["verify", tmp_path], ["train", QUICKSTART, "--data.uri", tmp_path]):
        assert f"{tmp_path}: holds no data set: there is no manifest.json" in mistake(command, capsys)
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/a.txt").write_text("a file")
    assert "holds no data set, but pictures: make one" in mistake(["verify", tmp_path / "photos"], capsys)
    assert "is a file, where the folder of" in mistake(["verify", tmp_path / "photos/a.txt"], capsys)
    assert "no such folder; write one with" in mistake(["verify", tmp_path / "none"], capsys)
    (tmp_path / "manifest.json").write_text("{")
    assert "is not a manifest" in mistake(["train", QUICKSTART, "--data.uri", tmp_path], capsys)
    assert cli.run(["verify", str(tmp_path)]) == 1  # to find that is what it is there for
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/manifest.json: is not a manifest: ") and last == "1 fault"


def test_a_batch_that_does_not_fit_the_shards_is_told(data, tmp_path, capsys):
    settings = ["--data.uri", data, "--run", tmp_path / "run", "--data.streams", "8"]
    line = mistake(["train", QUICKSTART, *settings], capsys)
    assert "data.streams = 8: must divide both the 4 train shards" in line
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_finished_is_told(finished, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_bytes((finished / "recipe.toml").read_bytes())
    for command in (["evaluate", tmp_path], ["predict", tmp_path, "x.jpg"]):
        assert "run `catdog train` again to finish" in mistake(command, capsys)


def test_a_data_set_is_not_written_over_unasked(data, photos, capsys):
    assert "--overwrite" in mistake(["prepare", f"folder:{photos}", data], capsys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_or_closed_disk_fails_in_one_line(number, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise OSError(number, "the disk says no", "some/file")

    monkeypatch.setattr("catdog.data.verify.verify", fail)
    assert cli.run(["verify", "x"]) == 1
    assert capsys.readouterr().err == "catdog: failed: the disk says no: some/file\n"


def test_options_stand_before_between_and_after_positionals(tmp_path):
    places = [
        ["prepare", "--side", "64", "--keep", "cat=0.3", "drawn", "x"],
        ["prepare", "drawn", "--keep", "cat=0.3", "--side", "64", "x"],
        ["prepare", "drawn", "x", "--side=64", "--keep=cat=0.3"],
    ]
    assert [cli.parse(words) for words in places] == [
        cli.Prepare(source="drawn", data_uri="x", side=64, keep=("cat=0.3",))
    ] * 3
    settings = [["train", *("--data.side", "64"), "r.toml"], ["train", "r.toml", "--data.side=64"]]
    for words in settings:
        train = cli.parse(words)
        assert isinstance(train, cli.Train)
        assert (train.recipe, train.settings) == (Path("r.toml"), [("data.side", "64")])


def test_keep_may_be_given_for_each_class():
    both = cli.parse(["prepare", "--keep", "cat=0.3", "--keep", "dog=0.5", "drawn", "x"])
    assert isinstance(both, cli.Prepare) and both.keep == ("cat=0.3", "dog=0.5") and both.source == "drawn"


def test_a_negative_number_is_a_value_and_no_option(capsys):
    assert "--seed -1: must be at least 0" in mistake(["prepare", "drawn", "x", "--seed", "-1"], capsys)
    assert "run.seed = -1" in mistake(["train", QUICKSTART, "--run.seed", "-1"], capsys)


def test_train_gets_the_recipe_with_its_last_overrides(data, tmp_path, monkeypatch, capsys):
    got: list[Recipe] = []
    metrics = {"accuracy_interval": (0.5, 0.75), "accuracy": 0.625, "log_loss": 0.7, "examples": 8, "split": "test"}
    metrics["classes"] = {"cat": {"support": 4}, "dog": {"support": 4}}

    def train(recipe: Recipe, began: float, profiled: object) -> dict[str, object]:
        assert profiled is None
        got.append(recipe)
        return metrics

    monkeypatch.setattr("catdog.training.trainer.train", train)
    words = ["train", QUICKSTART, "--run", str(tmp_path / "😀 run"), "--data.uri", str(data)]
    words += ["--data.streams", "16", "--phases.0.epochs", "7", "--data.streams=4"]
    assert cli.run(words) == 0
    (recipe,) = got
    assert recipe.run.uri == str(tmp_path / "😀 run")
    assert (recipe.data.uri, recipe.data.streams, recipe.phases[0].epochs) == (str(data), 4, 7)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "test accuracy 0.6250 (95 % interval 0.5000 to 0.7500, 8 examples)",
        "log loss 0.7000",
        f"report {tmp_path}/😀 run/report.html",
    ]


def test_prepare_thins_a_class_and_verify_finds_the_fault_that_comes_after(photos, tmp_path, capsys):
    folder = tmp_path / "data"
    command = ["prepare", f"folder:{photos}", str(folder), "--shards", "2", "--keep", "cat=0.5"]
    assert cli.run(command) == 0
    assert "train      24 examples (8 cat, 16 dog) in 2 shards" in capsys.readouterr().out
    assert cli.run([*command, "--reuse"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"data set {folder} (was there already; the pictures were not looked at again")
    assert "--overwrite" in last
    assert cli.run(["verify", str(folder)]) == 0
    assert "no fault" in capsys.readouterr().out
    shard = folder / "train-00001-of-00002.tfrecord"
    shard.write_bytes(damaged(shard.read_bytes()))
    assert cli.run(["verify", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert shard.name in out and "2 faults" in out and err == ""


def test_prepare_and_verify_tell_of_a_split_of_the_sources_own_and_of_what_leaks_across_it(photos, tmp_path, capsys):
    root, folder = tmp_path / "photos", tmp_path / "data"
    for part, chosen in (("Train", slice(0, 14)), ("Test", slice(14, 20))):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for path in sorted((photos / name).iterdir())[chosen]:
                shutil.copy(path, root / part / name)
    again = Image.open(root / "Train/cat/00.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    again.save(root / "Test/cat/mirrored.png")
    assert cli.run(["prepare", f"folder:{root}", str(folder), "--shards", "2", "--val", "0.2", "--test", "0.3"]) == 0
    out = capsys.readouterr().out
    kept = (
        "the source's own split is kept: train, test as its folders say (--test not used);"
        " val split off train (--val 0.2)\n"
    )
    assert kept in out and "test       13 examples (7 cat, 6 dog)" in out
    assert f"1 pair of near-duplicates, listed in {folder}/near_duplicates.csv\nwarning: 1 pair of them across" in out
    assert cli.run(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert kept in out and "warning: near-duplicates in two splits: " in out and "no fault" in out


def test_a_class_too_rare_for_every_split_is_told_and_a_test_without_it_gives_no_verdict(
    finished, photos, tmp_path, capsys
):
    root, folder, run = tmp_path / "photos", tmp_path / "data", shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(photos / "cat", root / "cat")
    for path in sorted((photos / "dog").iterdir())[:2]:
        draw(root / "dog" / path.name, int(path.stem), bright=True)
    assert cli.run(["prepare", f"folder:{root}", str(folder), "--shards", "2"]) == 0
    out = capsys.readouterr().out
    assert "warning: the val split holds no dog: " in out and "warning: the test split holds no dog: " in out
    assert cli.run(["evaluate", str(run), "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "no verdict: every example is a cat, so this does not tell whether" in out


def test_predict_prints_path_class_and_probability(finished, photos, capsys):
    pictures = [photos / "cat" / "00.png", photos / "dog" / "01.png"]
    assert cli.run(["predict", str(finished), *map(str, pictures)]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [[str(pictures[0]), "cat"], [str(pictures[1]), "dog"]]
    assert all(0.5 <= float(row[2]) <= 1 for row in rows) and err == ""


def test_predict_goes_on_after_a_file_that_fails_and_then_exits_1(finished, photos, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    words = ["predict", str(finished), str(bad), str(photos / "dog")]
    assert cli.run(words) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 20 and err.startswith(f"catdog: {bad}: ") and err.count("\n") == 1
    assert cli.run([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    first, *rest = [json.loads(line) for line in out.splitlines()]
    assert first.keys() == {"path", "error"} and first["path"] == str(bad) and err == ""
    assert len(rest) == 20 and all(row["class"] == "dog" and 0.5 <= row["probability"] <= 1 for row in rest)


def test_a_name_that_would_steer_the_terminal_is_shown_with_escapes_and_is_exact_in_json(
    finished, tmp_path, monkeypatch, capsys
):
    names = ["red\x1b[31m\u202e.png", "two\nlines\t.png", os.fsdecode(b"latin-\xe9.png")]
    for name in names:
        draw(tmp_path / name, 1, bright=True)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["predict", str(finished), *names, "missing\x07"]) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        "red\\x1b[31m\\u202e.png",
        "two\\nlines\\t.png",
        "latin-\\xe9.png",
    ]
    assert err == "catdog: missing\\x07: no such file or folder\n"
    assert cli.run(["predict", str(finished), *names, "--json"]) == 0
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [*names[:2], "latin-\\xe9.png"]
    assert all(path.encode() for path in paths)


def test_a_picture_whose_name_starts_with_a_dash_comes_after_two_dashes(finished, tmp_path, monkeypatch, capsys):
    draw(tmp_path / "-x.png", 1, bright=True)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["predict", str(finished), "--", "-x.png"]) == 0
    assert capsys.readouterr().out.startswith("-x.png\tdog\t")


def evaluated(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The folder that `evaluate` says it has written to."""
    assert cli.run(["evaluate", *map(str, words)]) == 0
    accuracy, _, written = capsys.readouterr().out.splitlines()
    assert " accuracy 1.0000 (95 % interval 0." in accuracy
    return written.removeprefix("written to ")


def test_an_evaluation_on_other_data_leaves_the_runs_own_and_its_report(finished, data, photos, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    own, other = run / "evaluation", tmp_path / "other"
    assert cli.run(["prepare", f"folder:{photos}", str(other), "--shards", "2", "--test", "0.5"]) == 0
    capsys.readouterr()
    digest = load_manifest(open_bucket(str(other))).digest
    for _ in range(2):  # before the run has an evaluation of its own, and after
        assert evaluated([run, "--data", other], capsys) == f"{own}/test-{digest[:8]}"
        assert evaluated([run], capsys) == f"{own}/test"
    assert evaluated([run, "--data", other, "--split", "val"], capsys) == f"{own}/val-{digest[:8]}"
    moved = shutil.copytree(data, tmp_path / "moved")
    assert evaluated([run, "--data", moved, "--split", "val"], capsys) == f"{own}/val"  # the same in another place
    found = {path.name: json.loads((path / "metrics.json").read_text()) for path in own.iterdir()}
    assert {name: metrics["examples"] for name, metrics in found.items()} == {
        "test": 4,
        "val": 4,
        f"test-{digest[:8]}": 20,
        f"val-{digest[:8]}": 4,
    }
    assert "of 4 right" in (run / "report.html").read_text()
    assert "/none/here: no such folder" in mistake(["evaluate", run, "--data", "/none/here"], capsys)


def test_evaluate_does_not_take_a_data_set_made_anew_in_the_same_place_for_the_runs_own(
    finished, photos, tmp_path, capsys
):
    data, run = tmp_path / "data", shutil.copytree(finished, tmp_path / "run")
    open_bucket(str(run)).write("recipe.toml", to_toml(Recipe(data=Data(uri=str(data), side=SIDE))).encode())
    prepare = ["prepare", f"folder:{photos}", str(data), "--shards", "2", "--overwrite", "--test"]
    assert cli.run([*prepare, "0.1"]) == 0
    capsys.readouterr()
    assert evaluated([run], capsys) == f"{run}/evaluation/test"
    assert cli.run([*prepare, "0.5"]) == 0
    capsys.readouterr()
    assert evaluated([run], capsys).startswith(f"{run}/evaluation/test-")


PREDICT_WITHOUT_TENSORFLOW = """
import itertools, sys, types
from catdog import cli
cli.import_tensorflow = lambda: None
predictions = types.ModuleType("catdog.evaluation.predict")
def predict(run, images):
    return (types.SimpleNamespace(path=path, predicted="cat", probability=0.9, error=None) for path in IMAGES)
predictions.predict = predict
sys.modules["catdog.evaluation.predict"] = predictions
cli.main()
"""


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback(finished):
    forever = PREDICT_WITHOUT_TENSORFLOW.replace("IMAGES", "itertools.repeat(*images)")
    command = [sys.executable, "-c", forever, "predict", str(finished), "x.jpg"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "x.jpg\tcat\t0.9000\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8:strict", "\xe9 \\xff.jpg".encode()), ("ascii:strict", b"\\xe9 \\xff.jpg")],
)
def test_a_name_that_cannot_be_shown_ends_no_command(encoding, shown, finished):
    words = ["predict", finished, "\xe9 ".encode() + b"\xff.jpg"]
    command = [sys.executable, "-X", "utf8", "-c", PREDICT_WITHOUT_TENSORFLOW.replace("IMAGES", "images"), *words]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.stdout, done.stderr, done.returncode) == (shown + b"\tcat\t0.9000\n", b"", 0)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--help"], 0, [*cli.COMMANDS]),
        (["tran"], 2, ["did you mean train?"]),
        (["train", "--foo"], 2, ["--foo lacks its value"]),
    ],
)
def test_help_and_a_mistake_are_told_soon_for_nothing_heavy_is_imported(words, code, told):
    probe = (
        "import sys; from catdog import cli\n"
        "try: code = cli.run(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'numpy', 'typeguard', 'tensorflow', 'keras', 'ray', 'matplotlib', 'sklearn'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < within(10)  # 0.3 s where nothing else runs
    shown, silent = (done.stderr, done.stdout) if code else (done.stdout, done.stderr)
    assert all(part in shown for part in told) and silent == ""


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"catdog \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["-h"], ["train", "--help"], ["train", "r.toml", "-h"]], ids=" ".join)
def test_help_ends_with_0_on_stdout(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(words)
    assert not caught.value.code
    out, err = capsys.readouterr()
    assert out.startswith("usage: catdog") and err == ""


def test_help_of_train_lists_every_field_of_a_recipe_with_its_meaning(capsys):
    with pytest.raises(SystemExit):
        cli.run(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for line in to_toml(Recipe()).splitlines():
        name = line.partition(" = ")[0]
        assert line.startswith(("[", "]", "phases", " ", VERSION_KEY)) or not name or f".{name} " in out
    assert "--phases.0.learning_rate FLOAT Peak rate" in out and "--data.side INT Side in pixels" in out
