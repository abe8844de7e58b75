"""A run's metrics.jsonl, read back."""

import json

import numpy as np
import pytest

from catdog.errors import FinalError
from catdog.runs.metrics_file import Line, best_epoch, epochs, kept_lines, parse_metrics, phases


def lines(steps: int = 40, split_at: int = 20) -> list[Line]:
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "phase": "frozen" if step <= split_at else "finetune", "loss": 1 / step, "accuracy": 0.5}
        rows.append(row | {"split": "train"})
        if step % 10 == 0:
            rows.append(row | {"split": "val", "epoch": step // 10})
    return rows


def line(step: int, split: str = "train", loss: float = 0.5) -> dict[str, object]:
    return {"step": step, "phase": "frozen", "split": split, "loss": loss, "accuracy": 0.5, "time": 1.0}


def content(*lines: dict[str, object]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in lines).encode()


def test_a_line_that_was_cut_is_left_out():
    whole = json.dumps(lines()[0])
    assert parse_metrics(f"{whole}\n{whole[:30]}".encode()) == [lines()[0]]
    assert parse_metrics(b"") == []
    assert parse_metrics(b"\xff\xfe\n[1]\nnull\n") == []


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"loss": "x"}, "loss is missing or of the wrong type: 'x': must be a number"),
        ({"accuracy": None}, "accuracy"),
        ({"step": 1.5}, "step"),
        ({"step": -1}, "step = -1"),
        ({"step": 10**30}, "step"),
        ({"step": float("inf")}, "step: must be a finite number"),
        ({"loss": float("nan")}, "loss: must be a finite number"),
        ({"split": 3}, "split"),
        ({"epoch": "1"}, "epoch"),
        ({"phase": "\ud800"}, "text"),
        ({"learning_rate": "x"}, "learning_rate"),
    ],
)
def test_a_figure_that_is_none_is_told_with_its_line(figures: dict[str, object], told: str) -> None:
    with pytest.raises(FinalError, match=rf"^metrics\.jsonl: line 2: .*{told}.*; delete the line") as caught:
        parse_metrics(content(line(2), line(4) | figures, line(6)))
    assert "\n" not in str(caught.value)


def test_an_epoch_has_the_mean_of_its_train_lines():
    rows = epochs(lines())
    assert [(row.number, row.phase, row.step) for row in rows] == [
        (1, "frozen", 10),
        (2, "frozen", 20),
        (3, "finetune", 30),
        (4, "finetune", 40),
    ]
    assert rows[1].train_loss == pytest.approx(np.mean([1 / step for step in range(11, 21)]))
    assert rows[1].val_loss == pytest.approx(1 / 20)
    assert rows[1].images_per_s is None
    assert best_epoch(rows) is rows[3]
    assert phases(lines()) == [("frozen", 0, 20), ("finetune", 20, 40)]


def test_a_run_that_goes_on_keeps_the_lines_up_to_its_step_in_their_order() -> None:
    lines = [line(2), line(4), line(4, "val"), line(6)]
    assert kept_lines(content(*lines), step=4, validated=4) == lines[:3]
    assert kept_lines(content(*lines), step=6, validated=4) == lines


def test_a_validation_that_was_not_committed_is_made_again() -> None:
    assert kept_lines(content(line(4), line(4, "val")), step=4, validated=0) == [line(4)]
