"""A pull: whole files, a folder that is a run, and again only what is missing, whatever the store and the run do."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import RECIPE, begin, delete_checkpoint, finish, train

from catdog import cli
from catdog.errors import CallerError, RunError
from catdog.recipe import override
from catdog.runs.pull import Pulled, pull
from catdog.storage import Bucket, Folder, GoogleBucket, Stat, lease, open_bucket
from catdog.storage.bucket import nobody
from catdog.storage.lease import LEASE, hold
from catdog.training.checkpoint import Checkpoints
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault

BESIDE = [
    "evaluation/test/metrics.json",
    "evaluation/test/roc.png",
    "metrics.jsonl",
    "model.keras",
    "recipe.toml",
    "report.html",
    "tensorboard/events.out.tfevents",
]


def checkpoint(step: int) -> list[str]:
    return [f"checkpoints/step-{step:08d}/{name}" for name in ("COMMITTED.json", "state.npz")]


def finished(run: Bucket) -> Bucket:
    """A run of three checkpoints, whose best is the second, with all that lies beside them."""
    train(run, [(10, 10), (20, 20), (30, 20)])
    finish(run)
    run.write(LEASE, b'{"released": true}')
    run.write("notes.txt", b"a person's")
    run.write("checkpoints/step-00000040/state.npz", b"not committed")
    return run


@pytest.fixture(params=["folder", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "source")
    request.getfixturevalue("store")
    return "gs://bucket/runs/source"


@pytest.fixture
def source(place: str) -> Bucket:
    return finished(open_bucket(place, patience=within(6)))


@pytest.fixture
def run(store: FakeStore) -> Bucket:
    """A finished run in the store that misbehaves."""
    return finished(open_bucket("gs://bucket/runs/source", patience=within(6)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "pulled"))


def files(bucket: Bucket) -> dict[str, bytes]:
    return {name: bucket.read(name) for name in bucket.list()}


def whole(source: Bucket, folder: Folder, *steps: int) -> bool:
    """Whether the folder holds what a pull of these steps brings, byte for byte, and nothing else."""
    names = [*BESIDE, *(name for step in steps for name in checkpoint(step))]
    return files(folder) == {name: source.read(name) for name in names}


@pytest.mark.parametrize(
    ("which", "step", "steps"), [("best", 20, [20]), ("last", 30, [20, 30]), ("30", 30, [20, 30]), ("10", 10, [10])]
)
def test_what_is_pulled_is_the_run_with_its_checkpoint_and_the_best_one_by_then(
    source: Bucket, folder: Folder, which: str, step: int, steps: list[int]
) -> None:
    pulled = pull(source, folder, which)
    assert whole(source, folder, *steps)
    size = sum(len(content) for content in files(folder).values())
    count = len(BESIDE) + 2 * len(steps)
    assert pulled == Pulled(step, best=min(step, 20), newest=step, files=count, there=0, size=size)


def test_training_finds_in_the_folder_what_it_goes_on_from(source: Bucket, folder: Folder) -> None:
    for which in ("best", "last", "10"):
        here = Folder(f"{folder.uri}-{which}")
        pull(source, here, which)
        checkpoints = Checkpoints(here, keep=2)
        position, arrays = checkpoints.restore(max(checkpoints.steps()))
        assert position.best_step in checkpoints.steps() and int(arrays["step"]) == position.step


def test_a_run_in_training_is_pulled_without_what_it_has_not_written_yet(place: str, folder: Folder) -> None:
    run = open_bucket(place)
    with hold(run, print):
        train(run, [(3, None), (6, 6)])
        assert pull(run, folder, "best").step == 6
        assert LEASE not in folder.list() and "model.keras" not in folder.list()


def test_again_nothing_is_fetched(source: Bucket, folder: Folder) -> None:
    pull(source, folder, "last")
    times = folder.times()
    pulled = pull(source, folder, "last")
    assert (pulled.there, pulled.size) == (pulled.files, 0) and folder.times() == times


def test_a_run_that_has_gone_on_is_brought_up_to_date(place: str, folder: Folder) -> None:
    run = open_bucket(place)
    train(run, [(10, 10)])
    pull(run, folder, "last")
    train(run, [(20, 20)])
    delete_checkpoint(run, 10)
    finish(run)
    pulled = pull(run, folder, "best")
    assert (pulled.step, pulled.newest, pulled.there) == (20, 20, 1)
    assert folder.read("metrics.jsonl") == run.read("metrics.jsonl")
    assert Checkpoints(folder, keep=2).steps() == [10, 20]


@pytest.mark.parametrize("name", ["model.keras", "metrics.jsonl", *checkpoint(20)])
@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_a_file_that_is_spoilt_in_the_folder_is_brought_anew(
    source: Bucket, folder: Folder, name: str, spoil: str
) -> None:
    pull(source, folder, "best")
    path = folder.local(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if spoil == "remove":
        path.unlink()
    else:
        path.write_bytes(content if spoil == "flip" else content[:-1])
    pulled = pull(source, folder, "best")
    assert whole(source, folder, 20)
    assert pulled.files - pulled.there == (2 if name.endswith("state.npz") else 1)


def test_a_commit_in_the_folder_does_not_vouch_for_files_that_are_on_their_way(run: Bucket, folder: Folder) -> None:
    pull(run, folder, "best")
    folder.write(checkpoint(20)[1], b"of another pull")
    with pytest.raises(RunError):
        pull(Away(run.uri), folder, "best")
    assert Checkpoints(folder, keep=2).steps() == []


class Away(GoogleBucket):
    """A store that gives no state out any more."""

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        if name.endswith("state.npz"):
            raise RunError("away")
        super().fetch(name, stat, path, tell)


PASSING = [
    Fault("download", "reset", at=20_000, times=3),
    Fault("download", "reset", at=0, times=5),
    Fault("download", "flip", name="npz|keras", at=10, times=2),  # a third of one file would be too many
    Fault("download", "truncate", name="npz|keras", at=1000, times=4),
    Fault("download", "status", code=503, times=5),
    Fault("list", "status", code=503, times=2),
    Fault("metadata", "reset", at=0, times=2),
]


@pytest.mark.parametrize("fault", PASSING, ids=[f"{f.kind}-{f.what}-{f.at}" for f in PASSING])
def test_a_fault_that_passes_leaves_the_right_bytes(
    store: FakeStore, run: Bucket, folder: Folder, fault: Fault
) -> None:
    store.faults.add(fault)
    pull(run, folder, "last")
    assert whole(run, folder, 20, 30)


@pytest.mark.parametrize("name", ["state.npz", "model.keras"])
def test_bytes_that_stay_wrong_end_in_an_error_and_leave_no_file_and_no_commit(
    store: FakeStore, run: Bucket, folder: Folder, name: str
) -> None:
    store.faults.add(Fault("download", "flip", name=name, at=5, times=None))
    with pytest.raises(RunError, match=rf"{name}: crc32c [0-9a-f]{{8}} expected, [0-9a-f]{{8}} found"):
        pull(run, folder, "best")
    assert not any(left.endswith((name, "COMMITTED.json")) for left in folder.list())
    assert [path for path in Path(folder.uri).rglob(".*") if path.is_file()] == []


PULL = "import sys; from catdog import cli; sys.exit(cli.run(['pull', *sys.argv[1:]]))"


def test_a_pull_that_was_killed_leaves_whole_files_and_the_next_one_brings_the_rest(
    store: FakeStore, run: Bucket, folder: Folder
) -> None:
    store.rate = 40_000 / within(1)  # the model takes 5 s, the state 6 s
    with subprocess.Popen([sys.executable, "-c", PULL, run.uri, folder.uri]) as process:
        deadline = time.monotonic() + within(60)
        while not {"metrics.jsonl", "report.html", "evaluation/test/roc.png"} <= set(folder.list()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    store.rate = None
    there = files(folder)
    assert there.keys() < set(BESIDE) and there == {name: run.read(name) for name in there}
    assert any(Path(folder.uri).rglob(".part-*"))
    before = {name: store.count("download", f"{name}$") for name in BESIDE}
    pulled = pull(run, folder, "best")
    again = {name for name in BESIDE if store.count("download", f"{name}$") > before[name]}
    assert again == set(BESIDE) - there.keys() | {"recipe.toml"}  # which is read to tell whose the folder is
    assert whole(run, folder, 20) and pulled.there == len(there)
    assert not any(Path(folder.uri).rglob(".part-*"))


def test_a_checkpoint_that_is_deleted_during_the_pull_ends_in_a_line_that_says_to_pull_again(
    store: FakeStore, run: Bucket, folder: Folder
) -> None:
    store.faults.add(Fault("download", "stall", name=r"step-00000020/state\.npz", at=1000, seconds=0.4))

    def delete_once_it_is_asked_for() -> None:
        while not store.count("download", r"step-00000020/state\.npz"):
            time.sleep(0.001)
        delete_checkpoint(run, 20)

    thread = threading.Thread(target=delete_once_it_is_asked_for)
    thread.start()
    with pytest.raises(RunError, match=r"step-00000020/state\.npz: was deleted while .* pull again") as caught:
        pull(run, folder, "best")
    thread.join()
    assert "\n" not in str(caught.value)
    assert Checkpoints(folder, keep=2).steps() == []


class Retaining(Folder):
    """A run that deletes a checkpoint as soon as something else of it is fetched."""

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        delete_checkpoint(self, 20)
        super().fetch(name, stat, path, tell)


def test_a_checkpoint_that_is_deleted_in_a_folder_during_the_pull_is_told_too(tmp_path: Path, folder: Folder) -> None:
    run = Retaining(finished(open_bucket(str(tmp_path / "source"))).uri)
    with pytest.raises(RunError, match=r"step-00000020/.* pull again"):
        pull(run, folder, "best")
    assert Checkpoints(folder, keep=2).steps() == []
    pull(run, folder, "10")
    assert Checkpoints(folder, keep=2).steps() == [10]


def test_metrics_that_the_run_writes_anew_during_the_pull_come_as_they_are_then(
    store: FakeStore, run: Bucket, folder: Folder
) -> None:
    longer = run.read("metrics.jsonl") + b'{"step": 31}\n'
    store.faults.add(Fault("download", "replace", name=r"metrics\.jsonl", content=longer))
    pull(run, folder, "last")
    assert folder.read("metrics.jsonl") == longer and whole(run, folder, 20, 30)


class Growing(Folder):
    """A run whose metrics grow each time before they are fetched."""

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        if name == "metrics.jsonl" and stat.size < 2000:
            self.write(name, self.read(name) + b"x" * 900)
        super().fetch(name, stat, path, tell)


def test_metrics_that_grow_in_a_folder_during_the_pull_come_as_they_are_then(tmp_path: Path, folder: Folder) -> None:
    run = Growing(finished(open_bucket(str(tmp_path / "source"))).uri)
    pull(run, folder, "last")
    assert folder.read("metrics.jsonl") == run.read("metrics.jsonl")


def test_when_a_file_fails_the_others_are_given_up(store: FakeStore, run: Bucket, folder: Folder) -> None:
    store.rate = 10_000 / within(1)  # the model takes 20 s
    store.faults.add(Fault("download", "status", name="report", code=403, times=None))
    began = time.monotonic()
    with pytest.raises(CallerError, match=r"report\.html: the store refuses to read it"):
        pull(run, folder, "best")
    assert time.monotonic() - began < within(5)


def test_ctrl_c_ends_it_at_once(store: FakeStore, run: Bucket, folder: Folder) -> None:
    store.rate = 10_000 / within(1)
    with subprocess.Popen([sys.executable, "-c", PULL, run.uri, folder.uri], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + within(60)
        while "report.html" not in folder.list():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(within(30)) == 130 and time.monotonic() - began < within(5)
        assert process.stderr is not None and process.stderr.read() == b"catdog: interrupted\n"
    assert not any(Path(folder.uri).rglob(".part-*"))


@pytest.mark.parametrize("spoil", ["other", "cut", "remove"])
def test_a_checkpoint_that_is_not_what_was_committed_is_refused_by_name(
    source: Bucket, folder: Folder, spoil: str
) -> None:
    name = checkpoint(20)[1]
    content = source.read(name)
    source.delete(name)
    if spoil != "remove":
        source.write(name, content[:-1] if spoil == "cut" else content[:-1] + b"x")
    gone = pytest.raises(CallerError, match="the best checkpoint before it, of step 20, is gone")
    spoilt = pytest.raises(RunError, match=r"step-00000020/state\.npz: committed with \d+ bytes")
    with gone if spoil == "remove" else spoilt:
        pull(source, folder, "last")
    assert folder.list() == []


def test_a_commit_that_is_none_is_refused_by_name(source: Bucket, folder: Folder) -> None:
    source.write(checkpoint(20)[0], b"{}")
    with pytest.raises(RunError, match=r"step-00000020/COMMITTED\.json: is not the commit"):
        pull(source, folder, "20")


def test_where_there_is_no_run_none_is_pulled(place: str, folder: Folder) -> None:
    run = open_bucket(place)
    with pytest.raises(CallerError, match=r"source: there is no run here"):
        pull(run, folder, "best")
    begin(run)
    with pytest.raises(CallerError, match="no checkpoint is committed yet"):
        pull(run, folder, "best")
    assert not Path(folder.uri).exists()


def test_a_finished_run_whose_checkpoints_are_gone_is_not_told_to_be_waited_for(source: Bucket, folder: Folder) -> None:
    for name in source.list("checkpoints/"):
        source.delete(name)
    with pytest.raises(CallerError, match=r"its checkpoints are gone; copy model\.keras"):
        pull(source, folder, "best")


def test_a_run_is_not_pulled_into_itself(tmp_path: Path) -> None:
    run = finished(open_bucket(str(tmp_path / "source")))
    before = run.list()
    with pytest.raises(CallerError, match=r"lies in .*source itself"):
        pull(run, Folder(str(tmp_path / "source" / "below" / "it")), "best")
    assert run.list() == before and not (tmp_path / "source" / "below").exists()


def test_a_step_that_is_not_committed_is_refused_with_those_that_are(source: Bucket, folder: Folder) -> None:
    for step in ("40", "0", "99999999999"):
        with pytest.raises(CallerError, match=f"step {step} is not committed.* 10, 20, 30$"):
            pull(source, folder, step)


def test_before_the_first_validation_there_is_no_best_one_but_a_last_one(place: str, folder: Folder) -> None:
    run = open_bucket(place)
    train(run, [(3, None)])
    with pytest.raises(CallerError, match="no checkpoint is the best; give --which last"):
        pull(run, folder, "best")
    assert pull(run, folder, "last").best is None


def test_a_checkpoint_that_training_could_not_go_on_from_is_refused(source: Bucket, folder: Folder) -> None:
    train(source, [(35, 20), (36, 35), (37, 35)])  # 35 was validated only after it was saved
    delete_checkpoint(source, 20)
    with pytest.raises(CallerError, match=r"step 35, .* of step 20, is gone; .* 10, 30, 35, 36, 37$"):
        pull(source, folder, "best")
    with pytest.raises(CallerError, match="is gone"):
        pull(source, folder, "30")
    pull(source, folder, "36")
    assert Checkpoints(folder, keep=2).steps() == [35, 36]


def refused(source: Bucket, folder: Folder, told: str) -> None:
    """The pull is refused, and the folder is as it was."""
    before = files(folder), folder.times()
    with pytest.raises(CallerError, match=told) as caught:
        pull(source, folder, "last")
    assert str(caught.value).startswith(folder.uri) and "\n" not in str(caught.value)
    assert (files(folder), folder.times()) == before


def test_a_folder_of_another_run_is_left_alone(source: Bucket, folder: Folder) -> None:
    begin(folder, override(RECIPE, [("data.side", "96"), ("data.uri", "elsewhere")]))
    folder.write("model.keras", b"another's")
    refused(source, folder, "holds a run that differs in data.side: 96 → 64; ")


def test_a_folder_of_a_run_on_another_data_set_is_left_alone(source: Bucket, folder: Folder) -> None:
    train(folder, [(5, 5)], manifest="another")
    refused(source, folder, "differs in the data set's manifest: another → manifest")


def test_a_folder_of_the_run_that_differs_only_in_where_it_lies_is_pulled_into(source: Bucket, folder: Folder) -> None:
    begin(folder, override(RECIPE, [("run.uri", folder.uri), ("checkpoint.keep", "5")]))
    pull(source, folder, "last")
    assert whole(source, folder, 20, 30)


@pytest.mark.parametrize(
    "name",
    [
        "model.keras",
        "metrics.jsonl",
        "report.html",
        "lease.json",
        "checkpoints/step-00000020/model.pt",
        "evaluation/test/roc.png",
        "tensorboard/events.out.tfevents.1.host",
    ],
)
def test_a_folder_with_files_of_something_else_is_left_alone(source: Bucket, folder: Folder, name: str) -> None:
    folder.write("notes.txt", b"mine")
    folder.write(name, b"{}")
    refused(source, folder, f"holds {name.partition('/')[0]} but no recipe.toml that tells whose")


def test_a_folder_with_a_recipe_that_was_written_by_hand_is_left_alone(source: Bucket, folder: Folder) -> None:
    folder.write("recipe.toml", b"# why 64\n" + source.read("recipe.toml"))
    refused(source, folder, r"its recipe\.toml was written by hand")


def test_a_folder_that_holds_nothing_of_a_runs_is_pulled_into_and_keeps_what_it_holds(
    source: Bucket, folder: Folder
) -> None:
    theirs = {
        "photo.jpg": b"mine",
        "models/model.keras": b"mine",
        "below/checkpoints/x/.part-abcdefgh-state.npz": b"mine",
    }
    for name, content in theirs.items():
        folder.write(name, content)
    pull(source, folder, "last")
    assert {name: folder.read(name) for name in theirs} == theirs


def test_a_folder_whose_run_has_gone_further_is_left_alone(source: Bucket, folder: Folder) -> None:
    train(folder, [(31, 20)])
    refused(source, folder, r"has gone on to step 31, and .*source only to step 30")


def test_a_folder_whose_run_is_being_trained_is_left_alone(source: Bucket, folder: Folder) -> None:
    begin(folder)
    with hold(folder, print):
        refused(source, folder, "is being trained")
    pull(source, folder, "last")


def test_a_folder_whose_training_was_killed_is_pulled_into(
    source: Bucket, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.2)
    begin(folder)
    folder.write(LEASE, b'{"machine": "another"}')
    time.sleep(0.3)
    pull(source, folder, "last")


def test_a_lease_dated_ahead_of_the_clock_does_not_keep_a_folder_from_being_pulled_into(
    source: Bucket, folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.2)
    begin(folder)
    folder.write(LEASE, b'{"machine": "another", "host": "elsewhere", "pid": 7}')
    os.utime(folder.local(LEASE), (time.time() + 86400,) * 2)
    pull(source, folder, "last")
    assert "process 7 on elsewhere may still train this run" in capsys.readouterr().err


def test_a_file_in_the_way_of_the_folder_is_told(source: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CallerError, match="file: cannot be written"):
        pull(source, Folder(str(tmp_path / "file")), "last")


def test_names_that_lead_out_of_the_folder_are_not_brought(store: FakeStore, run: Bucket, folder: Folder) -> None:
    for name in ("evaluation/../../evil", "evaluation/", "tensorboard//x", "evaluation/./y"):
        store.put("bucket", f"runs/source/{name}", b"evil")
    pull(run, folder, "best")
    assert whole(run, folder, 20)
    assert not (Path(folder.uri).parent / "evil").exists()


def test_a_commit_that_names_files_outside_is_refused(source: Bucket, folder: Folder) -> None:
    name = checkpoint(20)[0]
    source.write(name, source.read(name).replace(b"state.npz", b"../../model.keras"))
    with pytest.raises(RunError, match="is not the commit of a checkpoint"):
        pull(source, folder, "best")


@pytest.mark.parametrize("text", ["tset", "-1", "2.0", "", "best,last"])
def test_which_is_a_word_or_a_step(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pull", str(tmp_path), str(tmp_path / "x"), f"--which={text}"]) == 2
    assert f"--which {text}: must be best, last or the step of a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pull"], "pull lacks RUN_URI and FOLDER"),
        (["pull", "x"], "pull lacks FOLDER: Folder on this machine"),
        (["pull", "x", "gs://bucket/y"], "gs://bucket/y: FOLDER must be a path on this machine"),
        (["pull", "x", ""], "an empty URI"),
        (["pull", "x", "y", "--wich", "best"], "did you mean --which?"),
        (["pull", "/none/here", "x"], "/none/here: there is no run here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1


def test_the_command_tells_what_it_brought(source: Bucket, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pull", source.uri, folder.uri, "--which", "last"]) == 0
    assert capsys.readouterr() == (
        f"brought 11 files, {size_of(folder)}; 0 of 11 files were there already\n"
        f"checkpoint of step 30, and of step 20, the best by then\nrun {folder.uri}\n",
        "",
    )
    folder.delete("report.html")
    assert cli.run(["pull", source.uri, folder.uri]) == 0
    assert capsys.readouterr() == (
        "brought 1 files, 6 bytes; 8 of 9 files were there already\n"
        f"checkpoint of step 20\ntraining would go on from step 30, which was there already\nrun {folder.uri}\n",
        "",
    )


def size_of(folder: Folder) -> str:
    return f"{sum(len(content) for content in files(folder).values()) / 1000:.1f} kB"


def test_on_a_terminal_a_bar_tells_bytes_and_rate(tmp_path: Path, folder: Folder) -> None:
    run = finished(open_bucket(str(tmp_path / "source")))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PULL, run.uri, folder.uri]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, env=env)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0 and "kB" in shown and "/s" in shown and b"\x1b" not in done.stdout


def test_a_finished_run_on_other_data_whose_checkpoints_are_gone_is_left_alone(source: Bucket, folder: Folder) -> None:
    finish(source)
    train(folder, [(5, 5)], manifest="another")
    finish(folder, manifest="another")
    for name in folder.list("checkpoints/"):
        folder.delete(name)
    refused(source, folder, "differs in the data set's manifest: another → manifest")
    folder.delete("evaluation/test/metrics.json")
    folder.write("model.keras", b"another")
    refused(source, folder, r"differs in its model\.keras, and nothing tells what that was trained on")


def test_a_pull_that_was_broken_off_before_its_checkpoint_goes_on(source: Bucket, folder: Folder) -> None:
    finish(source)
    for name in ("recipe.toml", "model.keras", "report.html"):
        folder.write(name, source.read(name))
    pull(source, folder, "last")
    assert whole(source, folder, 20, 30)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize(
    "name", ["recipe.toml", "model.keras", "evaluation/test/roc.png", "checkpoints/step-00000030/state.npz"]
)
def test_what_is_no_file_under_a_name_of_the_runs_is_refused_before_anything_comes(
    source: Bucket, folder: Folder, name: str, kind: str
) -> None:
    path = folder.local(name)
    path.parent.mkdir(parents=True)
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("/nowhere/x")}[kind](path)
    before = path.lstat().st_ino
    refused(source, folder, rf"{name}: is a {kind}")
    assert path.lstat().st_ino == before and folder.list() == []


@pytest.mark.parametrize("name", ["checkpoints", "evaluation", "tensorboard"])
def test_a_file_where_a_folder_of_the_runs_would_lie_is_refused(source: Bucket, folder: Folder, name: str) -> None:
    folder.write(name, b"mine")
    refused(source, folder, f"{name}: is a file, where a folder")


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step-00000030", "evaluation/test"])
def test_a_run_of_which_a_folder_lies_elsewhere_by_a_link_is_pulled(tmp_path: Path, folder: Folder, name: str) -> None:
    source = finished(open_bucket(str(tmp_path / "source")))
    here = tmp_path / "source" / name
    here.rename(tmp_path / "elsewhere")
    here.symlink_to(tmp_path / "elsewhere")
    pull(source, folder, "last")
    assert whole(source, folder, 20, 30)


def test_a_checkpoint_that_is_a_link_is_brought_whole_and_what_it_leads_to_stays(
    tmp_path: Path, source: Bucket, folder: Folder
) -> None:
    pull(source, folder, "last")
    here, elsewhere = folder.local("checkpoints/step-00000030"), tmp_path / "elsewhere"
    here.rename(elsewhere)
    here.symlink_to(elsewhere)
    (elsewhere / "COMMITTED.json").write_bytes(source.read("checkpoints/step-00000030/COMMITTED.json") + b" ")
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    pull(source, folder, "last")
    assert whole(source, folder, 20, 30)
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
