"""Every plot is a picture in which the data shows, and none of them fails on odd data."""

import io
import math
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from catdog.evaluation import plots
from catdog.evaluation.metrics import summarize
from catdog.runs.metrics_file import Line

LABELS = np.array([0, 0, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.7, 0.2, 0.8, 0.9])


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(png: bytes, colour: str) -> float:
    """Part of the picture's pixels that have this colour, or one that JPEG may make of it."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(pixels(png).astype(int) - wanted) <= 1).all(axis=-1).mean())


def lines(steps: int = 40, split_at: int = 20) -> list[Line]:
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "phase": "frozen" if step <= split_at else "finetune", "loss": 1 / step, "accuracy": 0.5}
        rows.append(row | {"split": "train"})
        if step % 10 == 0:
            rows.append(row | {"split": "val", "epoch": step // 10})
    return rows


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("draw", [plots.loss, plots.accuracy])
def test_curves_show_train_and_validation(draw):
    assert share(draw(lines()), plots.BLUE) > 1e-4
    assert share(draw(lines()), plots.VERMILION) > 1e-4
    train_only = [line for line in lines() if line["split"] == "train"]
    assert share(draw(train_only), plots.VERMILION) == 0


def test_phases_are_parted_by_a_line_where_one_ends():
    def most_ink(png: bytes) -> int:
        """Dark pixels in the darkest column of the picture's middle third, where half of the steps are done."""
        dark = (pixels(png) < 100).all(axis=-1)
        return dark[:, dark.shape[1] // 3 : dark.shape[1] * 2 // 3].sum(axis=0).max()

    # A dashed line over the whole height adds ink to one column of pixels.
    assert most_ink(plots.loss(lines(split_at=20))) > most_ink(plots.loss(lines(split_at=40))) + 150


@pytest.mark.parametrize("given", [[], lines(1), lines(3)], ids=["none", "one step", "three steps"])
def test_curves_are_drawn_of_very_short_runs(given):
    assert pixels(plots.loss(given)).size and pixels(plots.accuracy(given)).size


def test_curves_are_drawn_when_a_loss_is_not_finite():
    broken = lines()
    broken[3]["loss"] = math.nan
    assert share(plots.loss(broken), plots.BLUE) > 1e-4


def test_curves_of_a_classifier_that_needs_both_classes_tell_so():
    told = plots.roc(np.ones(3), np.full(3, 0.9), None)
    assert pixels(told).shape[0] < pixels(plots.roc(LABELS, PROBABILITIES, 0.8)).shape[0]
    assert share(told, plots.BLUE) == 0
    assert share(plots.precision_recall(np.ones(3), np.full(3, 0.9), None), plots.BLUE) == 0


def test_roc_and_precision_recall_show_curve_and_threshold():
    summary = summarize(LABELS, PROBABILITIES)
    for png in (
        plots.roc(LABELS, PROBABILITIES, summary["roc_auc"]),
        plots.precision_recall(LABELS, PROBABILITIES, summary["pr_auc"]),
    ):
        assert share(png, plots.BLUE) > 1e-3
        assert share(png, plots.VERMILION) > 1e-4


def test_precision_recall_is_drawn_when_nothing_is_called_a_dog():
    assert share(plots.precision_recall(np.array([0, 1]), np.array([0.1, 0.2]), 1.0), plots.BLUE) > 1e-3


def test_confusion_matrix_shades_by_part_of_the_row():
    assert share(plots.confusion([[9, 0], [0, 100]]), plots.BLUE) > 0.3
    assert share(plots.confusion([[0, 9], [0, 100]]), plots.BLUE) > 0.3
    assert share(plots.confusion([[5, 5], [5, 5]]), plots.BLUE) == 0
    assert pixels(plots.confusion([[0, 0], [0, 3]])).size


def test_reliability_diagram_is_drawn_of_one_example_and_of_many():
    for labels, probabilities in ((LABELS[:1], PROBABILITIES[:1]), (LABELS, PROBABILITIES)):
        summary = summarize(labels, probabilities)
        assert share(plots.reliability(summary["reliability"], summary["ece"]), plots.BLUE) > 1e-4


def test_mistakes_show_their_pictures():
    red = plots.Mistake("a.jpg", "cat", "dog", 0.9, picture((255, 0, 0)))
    green = plots.Mistake("b.jpg", "dog", "cat", 0.8, picture((0, 255, 0)))
    sheet = plots.mistakes([red, green])
    assert share(sheet, "#ff0000") > 0.05
    assert share(sheet, "#00ff00") > 0.05


def test_file_names_are_drawn_as_they_are_whatever_they_hold():
    odd = ["$\\frac{$.jpg", "家猫.jpg", "x" * 300 + ".jpg", "a\nb.jpg", "\x1b\u202e\udce9.jpg", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet = plots.mistakes([plots.Mistake(name, "cat", "dog", 0.9, picture((255, 0, 0))) for name in odd])
    assert share(sheet, "#ff0000") > 0.05


def test_no_mistakes_is_told_in_words():
    assert 0 < (pixels(plots.mistakes([])) < 100).mean() < 0.1


def test_no_figure_is_left_behind_in_matplotlib():
    plots.loss(lines())
    plots.confusion([[1, 0], [0, 1]])
    assert pyplot.get_fignums() == []


def test_plots_are_the_same_whatever_a_person_has_set_for_their_own():
    plain = plots.confusion([[3, 1], [0, 4]])
    own = {"text.usetex": True, "axes.facecolor": "black", "font.size": 30, "savefig.dpi": 30}
    with matplotlib.rc_context(own):
        assert plots.confusion([[3, 1], [0, 4]]) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_phone_can_show_every_plot_at_its_full_width():
    for png in (plots.loss(lines()), plots.confusion([[1, 2], [3, 4]]), plots.roc(LABELS, PROBABILITIES, 0.8)):
        assert 800 <= pixels(png).shape[1] <= 1200


def test_smoothing_keeps_a_constant_and_does_not_lean_to_the_start():
    assert plots.smooth(np.full(9, 0.7), 5) == pytest.approx(np.full(9, 0.7))
    assert plots.smooth(np.array([4.0, 2.0]), 3) == pytest.approx([4.0, (0.5 * 4 + 2) / 1.5])
