"""The command line understands what is asked for, and tells every mistake in one line on stderr with exit code 2."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from catdog import cli
from catdog.cli import Evaluate, Predict, Prepare, Train, Verify
from catdog.errors import CallerError, RunError
from catdog.recipe import Recipe, to_toml
from catdog.storage import Bucket


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(Recipe()))
    return str(path)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    return line


def pictures(folder: Path, count: int) -> Path:
    """Class folders of small pictures, no two alike."""
    for index in range(count):
        path = folder / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (index, 3 * index % 256, 90)).save(path)
    return folder


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("prepare drawn d", Prepare("drawn", "d")),
        (
            "prepare --side 96 folder:x d --keep cat=0.3 --shards=4 --overwrite --keep dog=1",
            Prepare("folder:x", "d", side=96, shards=4, keep=("cat=0.3", "dog=1"), overwrite=True),
        ),
        ("verify d", Verify("d")),
        ("evaluate r", Evaluate("r")),
        ("evaluate r --data d --split=val", Evaluate("r", data="d", split="val")),
        ("predict r a.jpg b.jpg --json", Predict("r", (Path("a.jpg"), Path("b.jpg")), json=True)),
        ("predict r -- --a.jpg", Predict("r", (Path("--a.jpg"),))),
        ("train a.toml --run r", Train(Path("a.toml"), run="r")),
    ],
)
def test_commands_are_understood(arguments: str, command: object) -> None:
    assert cli.parse(arguments.split()) == command


def test_settings_of_a_recipe_may_stand_anywhere() -> None:
    words = ["train", "--data.uri", "d", "a.toml", "--phases.0.epochs=3", "--run=r", "--augment.contrast", "-0.5"]
    command = cli.parse(words)
    assert isinstance(command, Train)
    assert command.recipe == Path("a.toml")
    assert command.run == "r"
    assert command.settings == [("data.uri", "d"), ("phases.0.epochs", "3"), ("augment.contrast", "-0.5")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian x", "did you mean train?"),
        ("frobnicate", "there are prepare, verify, train, evaluate, predict"),
        ("prepare drawn", "DATA_URI"),
        ("train", "RECIPE"),
        ("evaluate", "RUN_URI"),
        ("predict r", "IMAGE"),
        ("prepare drawn d --sied 3", "did you mean --side?"),
        ("prepare drawn d --sied=3", "did you mean --side?"),
        ("prepare drawn d --data.side 3", "--data.side"),
        ("prepare drawn d --side three", "--side"),
        ("prepare drawn d --side", "--side"),
        ("prepare drawn d --side 3.5", "--side"),
        ("prepare drawn d more", "more"),
        ("prepare drawn d --keep cat", "as in cat=0.3"),
        ("prepare drawn d --side 8", "at least 32"),
        ("prepare dranw d", "drawn"),
        ("prepare drawn gs://b/d", "gs://b/d"),
        ("verify /nowhere/at-all", "/nowhere/at-all: no such folder"),
        ("evaluate /nowhere/at-all", "/nowhere/at-all"),
        ("predict /nowhere/at-all a.jpg", "/nowhere/at-all"),
        ("train /nowhere/at-all.toml", "/nowhere/at-all.toml: there is no such recipe"),
        ("train RECIPE --data.sied 3", "did you mean 'data.side'?"),
        ("train RECIPE --seed 3", "did you mean 'run.seed'?"),
        ("train RECIPE --rnu r", "did you mean --run?"),
        ("train RECIPE --data.side large", "data.side = 'large': must be a whole number"),
        ("train RECIPE --data.side", "--data.side lacks its value"),
        ("train RECIPE --data.uri --run r", "--data.uri lacks its value"),
        ("train RECIPE --data.global_batch 65", "a multiple of data.streams (16)"),
        ("train RECIPE", "run.uri is empty"),
        ("train RECIPE --run r --data.uri /nowhere/at-all", "/nowhere/at-all: no such folder"),
        ("train RECIPE --run gs://b/r --data.uri d", "gs://b/r"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: str, said: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([recipe if word == "RECIPE" else word for word in arguments.split()]) == 2
    line = told(capsys)
    assert line.startswith("catdog: error: ")
    assert said in line


def test_an_empty_folder_is_told(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.run(["train", recipe, "--run", str(tmp_path / "r"), "--data.uri", str(tmp_path / "empty")]) == 2
    assert "manifest.json" in told(capsys)


def test_a_recipe_that_is_not_toml_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("[data\n")
    assert cli.run(["train", str(tmp_path / "a.toml")]) == 2
    assert f"{tmp_path / 'a.toml'}: is not a recipe in TOML" in told(capsys)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse(arguments)
    assert not stop.value.code
    page = capsys.readouterr().out
    for name in arguments[:-1] or cli.COMMANDS:
        assert f"Example: catdog {name}" in page


def test_the_help_of_train_names_every_field_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["train", "--help"])
    page = capsys.readouterr().out
    for section in dataclasses.fields(Recipe):
        value = getattr(Recipe(), section.name)
        prefix, fields = (f"{section.name}.0", value[0]) if isinstance(value, tuple) else (section.name, value)
        for field in dataclasses.fields(fields):
            assert f"--{prefix}.{field.name}" in page


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CallerError("mend this"), 2, "catdog: error: mend this"),
        (RunError("it broke"), 1, "catdog: failed: it broke"),
        (KeyboardInterrupt(), 130, "catdog: interrupted"),
        (PermissionError(13, "Permission denied", "/x"), 1, "catdog: failed: Permission denied: /x"),
    ],
)
def test_how_a_command_ends_is_in_its_exit_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: Verify) -> int:
        raise error

    monkeypatch.setattr(Verify, "execute", fail)
    assert cli.run(["verify", "d"]) == code
    assert told(capsys) == said


def test_a_defect_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: Verify) -> int:
        raise FileNotFoundError("a defect")

    monkeypatch.setattr(Verify, "execute", fail)
    with pytest.raises(FileNotFoundError):
        cli.run(["verify", "d"])


def test_prepare_and_verify_tell_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, data = pictures(tmp_path / "pictures", 40), str(tmp_path / "data")
    (source / "cat" / "empty.jpg").write_bytes(b"")
    prepare = ["prepare", f"folder:{source}", data, "--shards", "2"]
    assert cli.run(prepare) == 0
    first = capsys.readouterr().out
    assert "train      32 examples (16 cat, 16 dog) in 2 shards" in first
    assert "1 files left out" in first
    assert f"data set {data}\n" in first

    assert cli.run(prepare) == 2
    assert "--overwrite" in told(capsys)
    assert cli.run([*prepare, "--reuse"]) == 0
    assert f"data set {data} (was there already)" in capsys.readouterr().out

    assert cli.run(["verify", data]) == 0
    assert "no fault" in capsys.readouterr().out
    shard = Bucket(data).list("train-")[0]
    content = bytearray(Bucket(data).read(shard))
    content[len(content) // 2] ^= 1
    Bucket(data).write(shard, bytes(content))
    assert cli.run(["verify", data]) == 1
    assert f"{shard}: crc32c" in capsys.readouterr().out


PROGRAM = "import sys\nfrom catdog import cli\ncode = cli.run(sys.argv[1:])\nassert 'tensorflow' not in sys.modules\nsys.exit(code)"


@pytest.mark.parametrize("arguments", [["trian"], ["evaluate", "/nowhere"], ["train", "/nowhere.toml"], ["predict", "/nowhere", "a"]])
def test_a_mistake_is_told_before_tensorflow_is_imported(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("catdog: error: ")


def test_help_comes_at_once() -> None:
    def seconds() -> float:
        began = time.process_time(), os.times().children_user
        subprocess.run([sys.executable, "-m", "catdog", "--help"], stdout=subprocess.DEVNULL, check=True, timeout=60)
        return os.times().children_user - began[1]

    assert min(seconds() for _ in range(3)) < 1.0


def test_a_reader_that_goes_away_is_no_defect(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    assert cli.run(["prepare", f"folder:{pictures(tmp_path / 'pictures', 20)}", data, "--shards", "2"]) == 0
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "catdog", "verify", data], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_predictions_as_json_hold_what_programs_need(capsys: pytest.CaptureFixture[str]) -> None:
    from catdog.evaluation.predict import Prediction

    good = json.loads(cli._as_json(Prediction(Path("a.jpg"), "cat", 0.75)))
    assert good == {"path": "a.jpg", "class": "cat", "probability": 0.75}
    assert json.loads(cli._as_json(Prediction(Path("b"), None, None, "no file"))) == {"path": "b", "error": "no file"}
