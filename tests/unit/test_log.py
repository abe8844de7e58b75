import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from catdog.runs.metrics_file import kept_lines
from catdog.storage import open_bucket
from catdog.training.log import MetricsLog


def line(step: int, loss: float = 0.5) -> dict[str, object]:
    return {"step": step, "phase": "frozen", "split": "train", "loss": loss, "accuracy": 0.5, "time": 1.0}


def test_tensorboard_shows_each_step_once_after_a_restart(tmp_path: Path) -> None:
    run = open_bucket(str(tmp_path))
    first = MetricsLog(run, [])
    for step in (2, 4, 6):
        first.add(line(step))
    first.close()
    second = MetricsLog(run, kept_lines(first.objects()["metrics.jsonl"], step=4, validated=0))
    second.add(line(6, loss=0.25))
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 0.5), (4, 0.5), (6, 0.25)]
    assert [json.loads(text)["step"] for text in second.objects()["metrics.jsonl"].decode().splitlines()] == [2, 4, 6]


def test_event_files_of_other_programs_stay_and_those_of_earlier_versions_go(tmp_path: Path) -> None:
    folder, first = tmp_path / "tensorboard", MetricsLog(open_bucket(str(tmp_path)), [])
    first.add(line(2))
    first.close()
    (ours,) = folder.iterdir()
    earlier = ours.rename(folder / ours.name.removesuffix(".catdog"))
    lines = kept_lines(first.objects()["metrics.jsonl"], step=2, validated=0)
    other = EventFileWriter(str(folder))
    other.add_event(
        Event(wall_time=1.0, step=2, summary=Summary(value=[Summary.Value(tag="train/loss", simple_value=1)]))
    )
    other.close()
    (folder / "events.txt").write_text("what happened")
    theirs = {path: path.read_bytes() for path in folder.iterdir() if path != earlier}
    assert len(theirs) == 2
    MetricsLog(open_bucket(str(tmp_path)), lines).close()
    assert not earlier.exists()
    assert {path: path.read_bytes() for path in theirs} == theirs
    MetricsLog(open_bucket(str(tmp_path)), lines).close()
    assert len([*folder.iterdir()]) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(open_bucket(str(tmp_path)), [])
    (events,) = tmp_path.glob("tensorboard/events.*")
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), log._file.fileno())
    with pytest.raises(OSError, match="No space left on device") as caught:
        log.add(line(2))
    assert caught.value.filename == str(events)
    with pytest.raises(OSError, match="No space left on device"):
        log.close()
    assert capfd.readouterr().err == ""
