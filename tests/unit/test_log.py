import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from catdog.runs.metrics import kept_lines
from catdog.storage import open_bucket
from catdog.training.log import MetricsLog
from catdog.training.screen import Screen


def line(step: int, split: str = "train", loss: float = 0.5) -> dict[str, object]:
    return {"step": step, "phase": "frozen", "split": split, "loss": loss, "accuracy": 0.5, "time": 1.0}


def content(*lines: dict[str, object]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in lines).encode()


def test_a_run_that_goes_on_keeps_the_lines_up_to_its_step_in_their_order() -> None:
    lines = [line(2), line(4), line(4, "val"), line(6)]
    assert kept_lines(content(*lines), step=4, validated=4) == lines[:3]
    assert kept_lines(content(*lines), step=6, validated=4) == lines


def test_a_validation_that_was_not_committed_is_made_again() -> None:
    assert kept_lines(content(line(4), line(4, "val")), step=4, validated=0) == [line(4)]


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


def test_a_line_without_a_speed_is_shown_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(total=4, done=0)
    screen.show(line(2))
    screen.show(line(4) | {"images_per_s": 250.0, "data_wait": 0.125})
    screen.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 2/4 frozen train loss 0.5000, accuracy 0.500, ") and "images/s" not in first
    assert "250 images/s, 12% waiting for data" in second
