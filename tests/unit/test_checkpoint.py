import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import damaged

from catdog.errors import FinalError, RunError
from catdog.runs.folder import Commit, Position
from catdog.storage import Bucket, Folder, Stat, crc32c, open_bucket
from catdog.training.checkpoint import Checkpoints
from tests.pace import within


def position(step: int, best: int | None = None) -> Position:
    return Position(step, step, 0.1 + 0.2, best, {"loss": 1 / 3}, "manifest", {"data": {"side": 96}})


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"model/0000": np.arange(6, dtype=np.float32) / 7 + step, "count": np.int64(step)}


@pytest.fixture
def run(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "run"))


def saved(run: Bucket, steps: list[int], keep: int = 2, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(run, keep)
    for step in steps:
        checkpoints.save(position(step, best), arrays(step), {"metrics.jsonl": b"{}\n"})
    checkpoints.wait()
    return checkpoints


def test_a_restored_checkpoint_has_the_same_bits_and_numbers(run: Bucket) -> None:
    where, what = saved(run, [7]).restore(7)
    assert where == position(7)
    assert what.keys() == arrays(7).keys()
    assert all(what[name].tobytes() == value.tobytes() for name, value in arrays(7).items())


def test_the_newest_and_the_best_are_kept(run: Bucket) -> None:
    assert saved(run, [1, 2, 3, 4, 5], keep=2, best=2).steps() == [2, 4, 5]
    assert sorted(p.name for p in run.local("checkpoints").iterdir()) == [f"step-{n:08d}" for n in (2, 4, 5)]


def test_what_was_best_when_a_kept_one_was_taken_is_kept_too(run: Bucket) -> None:
    checkpoints = Checkpoints(run, keep=2)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        checkpoints.save(position(step, best), arrays(step), {})
        checkpoints.wait()
        for kept in checkpoints.steps()[-2:]:  # whichever of them a run has to go on from
            assert checkpoints.position(kept).best_step in checkpoints.steps()
    assert checkpoints.steps() == [3, 4]


def test_what_a_person_puts_beside_the_checkpoints_is_left_alone(run: Bucket) -> None:
    checkpoints = saved(run, [1])
    names = [
        "checkpoints/step-00000001-mine/state.npz",
        "checkpoints/notes.txt",
        "checkpoints/step-00000001/why.txt",
        "checkpoints/step-00001000/model.pt",
        "checkpoints/step-00001000/.part-mine",
    ]
    for name in names:
        run.write(name, b"mine")
    checkpoints.sweep()
    for step in (2, 3, 4):
        checkpoints.save(position(step), arrays(step), {})
        checkpoints.wait()
    assert checkpoints.steps() == [3, 4]
    assert all(run.read(name) == b"mine" for name in names)


class Stuck(Folder):
    """A store that does not answer until it is let go."""

    def writing(self, name: str, *, new: bool = False) -> contextlib.AbstractContextManager[Path]:
        if name.endswith("state.npz"):
            assert GO.wait(30)
        return super().writing(name, new=new)


GO = threading.Event()


def test_while_the_store_does_not_answer_the_newest_and_the_best_are_kept_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.training.checkpoint.PATIENCE", 0.05)
    GO.clear()
    checkpoints = Checkpoints(Stuck(str(tmp_path)), keep=9)
    for step in range(1, 8):
        checkpoints.save(position(step, best=min(step, 4)), arrays(step), {"metrics.jsonl": b"%d" % step})
    assert checkpoints.steps() == []
    GO.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4, 7]
    assert Folder(str(tmp_path)).read("metrics.jsonl") == b"7"


def test_while_the_store_does_not_answer_only_the_first_save_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.training.checkpoint.PATIENCE", within(0.5))
    GO.clear()
    checkpoints = Checkpoints(Stuck(str(tmp_path)), keep=9)
    began = time.monotonic()
    for step in range(1, 30):
        checkpoints.save(position(step), arrays(step), {})
    assert within(0.5) < time.monotonic() - began < within(2)
    GO.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1, 29]


def test_a_commit_that_is_not_allowed_is_not_made(run: Bucket) -> None:
    def refuse() -> None:
        raise RunError("another process has it")

    checkpoints = Checkpoints(run, keep=2, allowed=refuse)
    checkpoints.save(position(1), arrays(1), {})
    with pytest.raises(RunError, match="another process"):
        checkpoints.wait()
    with pytest.raises(RunError, match="another process"):
        checkpoints.check()
    assert checkpoints.steps() == []


def test_a_commit_whose_state_is_gone_is_no_checkpoint_and_its_step_is_saved_anew(run: Bucket) -> None:
    checkpoints = saved(run, [1, 2])
    run.delete("checkpoints/step-00000002/state.npz")
    assert checkpoints.steps() == [1]
    checkpoints.save(position(2), arrays(2), {})
    checkpoints.wait()
    assert checkpoints.restore(2)[1]["count"] == 2


def test_a_process_that_lost_the_run_while_it_committed_deletes_nothing(run: Bucket) -> None:
    saved(run, [1, 2], keep=2)
    asked: list[int] = []

    def lost_meanwhile() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise RunError("another process has it")

    checkpoints = Checkpoints(run, keep=1, allowed=lost_meanwhile)
    checkpoints.save(position(3), arrays(3), {})
    with pytest.raises(RunError, match="another process"):
        checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]


class Overtaken(Folder):
    """A store so slow that another process saves step 1 while its state is on its way here."""

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        with super().writing(name, new=new) as path:
            yield path
            if name.endswith("state.npz") and not Path(self.uri, name).exists():
                saved(Folder(self.uri), [1])


def test_a_process_that_lost_the_run_while_it_uploaded_leaves_the_other_ones_checkpoint_alone(tmp_path: Path) -> None:
    asked: list[int] = []

    def lost_meanwhile() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise RunError("another process has it")

    checkpoints = Checkpoints(Overtaken(str(tmp_path)), keep=2, allowed=lost_meanwhile)
    checkpoints.save(position(1), arrays(99), {})
    with pytest.raises(RunError, match="another process has it"):
        checkpoints.wait()
    assert checkpoints.restore(1)[1]["count"] == 1


def test_a_process_that_has_the_run_saves_its_state_over_one_that_came_late(tmp_path: Path) -> None:
    class Late(Folder):
        """In which the upload of a process that has lost the run ends just now."""

        @contextlib.contextmanager
        def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
            with super().writing(name, new=new) as path:
                yield path
                if name.endswith("state.npz") and not late:
                    late.append(name)
                    Folder(self.uri).write(name, b"late")

    late: list[str] = []
    assert saved(Late(str(tmp_path)), [1]).restore(1)[1]["count"] == 1
    assert late


def test_a_process_that_has_the_run_commits_over_a_commit_that_came_late(tmp_path: Path) -> None:
    class Late(Folder):
        """In which the commit of a process that has lost the run arrives just now."""

        def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
            if not late:
                late.append(name)
                Folder(self.uri).write(name, b"late")
            return super().swap(name, content, expected)

    late: list[str] = []
    assert saved(Late(str(tmp_path)), [1]).restore(1)[1]["count"] == 1
    assert late


def test_a_save_without_its_commit_is_not_seen_and_is_swept(run: Bucket) -> None:
    checkpoints = saved(run, [1, 2])
    run.delete("checkpoints/step-00000002/COMMITTED.json")
    assert checkpoints.steps() == [1]
    checkpoints.sweep()
    assert [p.name for p in run.local("checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_a_spoilt_file_is_refused_by_name(run: Bucket, spoil: str) -> None:
    checkpoints = saved(run, [3])
    path = run.local("checkpoints/step-00000003/state.npz")
    content = path.read_bytes()
    if spoil == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if spoil == "cut" else damaged(content))
    with pytest.raises(RunError, match=r"step-00000003/state\.npz"):
        checkpoints.restore(3)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00"])
def test_a_state_that_was_committed_but_is_none_is_refused_by_name(run: Bucket, content: bytes) -> None:
    checkpoints = saved(run, [3])
    path = run.local("checkpoints/step-00000003/state.npz")
    path.write_bytes(content)
    commit = Commit(position(3), Stat(len(content), crc32c(path)))
    run.write("checkpoints/step-00000003/COMMITTED.json", commit.to_json())
    with pytest.raises(FinalError, match=r"step-00000003/state\.npz: is not the state of a checkpoint: "):
        checkpoints.restore(3)


def test_saving_a_committed_step_again_leaves_its_state_and_brings_its_position_and_the_metrics(run: Bucket) -> None:
    checkpoints = saved(run, [3])
    checkpoints.save(position(3, best=3), arrays(99), {"metrics.jsonl": b"more\n"})
    checkpoints.wait()
    where, what = checkpoints.restore(3)
    assert where == position(3, best=3)
    assert what["count"] == 3
    assert run.read("metrics.jsonl") == b"more\n"


def test_metrics_up_to_a_step_are_there_once_the_step_is_committed(run: Bucket) -> None:
    saved(run, [3])
    assert run.read("metrics.jsonl") == b"{}\n"


def test_a_failed_save_is_raised_by_the_next_call_and_leaves_the_older_one(run: Bucket) -> None:
    checkpoints = saved(run, [1])
    run.local("checkpoints/step-00000002").write_text("a file stands where the folder should be")
    checkpoints.save(position(2), arrays(2), {"metrics.jsonl": b""})
    with pytest.raises(Exception, match="step-00000002"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_a_commit_names_size_and_checksum_of_each_file(run: Bucket) -> None:
    saved(run, [5])
    commit = json.loads(run.read("checkpoints/step-00000005/COMMITTED.json"))
    (file,) = commit["files"]
    assert file["name"] == "state.npz"
    assert file["size"] == run.local("checkpoints/step-00000005/state.npz").stat().st_size
    assert len(file["crc32c"]) == 8
