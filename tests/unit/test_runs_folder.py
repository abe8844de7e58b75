"""The names in a run's folder, and where an evaluation belongs."""

import json
from pathlib import Path
from typing import Any

import pytest

from catdog import __version__
from catdog.errors import CallerError, FinalError, RunError
from catdog.recipe import Recipe, to_toml
from catdog.runs.folder import (
    Commit,
    LaterCommit,
    Position,
    checkpoint_files,
    commit_name,
    committed,
    evaluation_of,
    finished_recipe,
    read_commit,
    require_committed,
    require_ours,
    state_name,
)
from catdog.storage import Bucket, Stat, open_bucket

OWN, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def run(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "run"))


def test_a_checkpoint_is_committed_with_its_commit_and_its_state() -> None:
    names = [commit_name(3), state_name(3), state_name(10), commit_name(2), state_name(123456789)]
    names += [commit_name(123456789), "checkpoints/step-7/COMMITTED.json", "model.keras"]
    assert committed(names) == [3, 123456789]
    assert checkpoint_files(names)[3] == ["COMMITTED.json", "state.npz"]
    assert checkpoint_files(names).keys() == {2, 3, 10, 123456789}


def test_before_its_training_has_ended_a_run_has_the_data_set_that_its_recipe_tells(run: Bucket) -> None:
    assert evaluation_of(run, "test", OWN, named=False) == "evaluation/test"
    assert evaluation_of(run, "val", OTHER, named=True) == "evaluation/val-bbbbbbbb"


@pytest.mark.parametrize("named", [False, True])
def test_later_a_run_has_the_data_set_that_it_was_evaluated_on_wherever_that_lies(run: Bucket, named: bool) -> None:
    run.write("evaluation/test/metrics.json", json.dumps({"data": {"digest": OWN}, "accuracy": 0.5}).encode())
    assert evaluation_of(run, "train", OWN, named=named) == "evaluation/train"
    assert evaluation_of(run, "test", OTHER, named=named) == "evaluation/test-bbbbbbbb"


def test_what_is_not_as_it_was_committed_is_named_with_what_was_found() -> None:
    expected = Stat(3, "00c0ffee")
    require_committed("run/state.npz", Stat(3, "00c0ffee", generation=7), expected)
    for found, told in ((None, "found nothing"), (Stat(3, "deadbeef"), "found 3 bytes and deadbeef")):
        with pytest.raises(RunError, match=f"^run/state.npz: committed with 3 bytes and crc32c 00c0ffee, {told};"):
            require_committed("run/state.npz", found, expected)


def test_a_run_without_its_model_is_not_finished(run: Bucket) -> None:
    with pytest.raises(CallerError, match="there is no run here"):
        finished_recipe(run)
    run.write("recipe.toml", to_toml(Recipe()).encode())
    with pytest.raises(CallerError, match=r"has no model\.keras: run `catdog train` again"):
        finished_recipe(run)
    run.write("model.keras", b"x")
    assert finished_recipe(run) == Recipe()


COMMIT = Commit(Position(3, 3, 0.5, 3, {"loss": 1.0}, "manifest", {"data": {"side": 96}}), Stat(10, "00c0ffee"))


def test_a_commit_is_read_back_as_it_was_written(run: Bucket) -> None:
    run.write(commit_name(3), COMMIT.to_json())
    assert read_commit(run, 3) == COMMIT


def changed(where: str, value: Any) -> bytes:
    """The commit with the value at a dotted place, where a number counts entries of a list."""
    content = here = json.loads(COMMIT.to_json())
    *parents, last = where.split(".")
    for part in parents:
        here = here[int(part) if part.isdecimal() else part]
    here[int(last) if last.isdecimal() else last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("position.step", "3"),
        ("position.step", 3.0),
        ("position.step", None),
        ("position.step", 4),
        ("position.best_step", "3"),
        ("position.best_step", 3.0),
        ("position.best_loss", "low"),
        ("position.window", [1]),
        ("position.manifest", 5),
        ("position.recipe", 5),
        ("position", [1]),
        ("files", 5),
        ("files", []),
        ("files.0.size", "10"),
        ("files.0.crc32c", 5),
    ],
)
def test_what_is_no_commit_of_its_checkpoint_is_told_in_one_line_with_what_to_do(
    run: Bucket, where: str, value: Any
) -> None:
    run.write(commit_name(3), changed(where, value))
    with pytest.raises(FinalError, match=r"COMMITTED\.json: is not the commit .*; delete its folder to go on") as told:
        read_commit(run, 3)
    assert not isinstance(told.value, LaterCommit) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 9999, COMMIT.to_json().replace(b"0.5", b"NaN"), COMMIT.to_json().replace(b": 10,", b": 1e400,"),
     COMMIT.to_json().replace(b'"step": 3', b'"step": 3, "step": 3'), COMMIT.to_json().replace(b"0.", b'"\\u001b[2J0.')],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_commit_within_no_bounds_is_told_in_one_line(run: Bucket, content: bytes) -> None:
    run.write(commit_name(3), content)
    with pytest.raises(FinalError, match=r"COMMITTED\.json: is not the commit .*; delete its folder to go on") as told:
        read_commit(run, 3)
    assert "\n" not in str(told.value) and "\x1b" not in str(told.value)


def test_a_commit_too_large_for_one_is_not_read(run: Bucket) -> None:
    run.write(commit_name(3), b" " * (1 << 21))
    with pytest.raises(FinalError, match=r"COMMITTED\.json: has more than the 1,048,576 bytes"):
        read_commit(run, 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"data": 3}', b'{"data": {"digest": 3}}', b'{"a":' * 9999])
def test_an_evaluation_that_is_none_is_told_in_one_line(run: Bucket, content: bytes) -> None:
    run.write("evaluation/test/metrics.json", content)
    with pytest.raises(FinalError, match=r"evaluation/test/metrics\.json: is not what an evaluation writes"):
        evaluation_of(run, "val", OWN, named=False)


def test_folders_that_only_look_like_checkpoints_are_none() -> None:
    for step in ("\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0663", "000000003", "9" * 40, "0000003"):
        assert committed([f"checkpoints/step-{step}/{name}" for name in ("COMMITTED.json", "state.npz")]) == []


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("position.waited", 1, r"position\.waited"),
        ("features", {}, "features"),
        ("files", [{"name": "state.npz"}, {"name": "features.npz"}], r"files\.features\.npz"),
    ],
)
def test_what_a_later_version_has_committed_is_refused_by_its_name(
    run: Bucket, where: str, value: Any, told: str
) -> None:
    run.write(commit_name(3), changed(where, value).replace(f'"{__version__}"'.encode(), b'"99.0.0"'))
    with pytest.raises(LaterCommit, match=rf"{told} is nothing that catdog .* knows: the commit is of catdog 99\.0\.0"):
        read_commit(run, 3)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ["model.keras", "report.html", "metrics.jsonl", "lease.json"])
def test_a_folder_under_the_name_of_a_runs_file_is_told_before_the_run_goes_on(
    run: Bucket, name: str, begun: bool
) -> None:
    if begun:
        run.write("recipe.toml", to_toml(Recipe()).encode())
    (Path(run.uri) / name).mkdir(parents=True)
    with pytest.raises(CallerError, match=f"{name}: is a folder, where a file"):
        require_ours(run)
