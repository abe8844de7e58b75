"""Metrics against values worked out by hand, and the cases where a metric has none."""

import json
import math

import numpy as np
import pytest

from catdog.evaluation.metrics import (
    expected_calibration_error,
    no_verdict,
    predicted,
    reliability,
    summarize,
    wilson,
)

# Two cats and three dogs; one cat and one dog are wrong.
LABELS = np.array([0, 0, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.7, 0.2, 0.8, 0.9])


def test_every_metric_equals_its_value_by_hand():
    got = summarize(LABELS, PROBABILITIES)
    log_loss = -(math.log(0.9) + math.log(0.3) + math.log(0.2) + math.log(0.8) + math.log(0.9)) / 5
    assert (got["examples"], got["correct"]) == (5, 3)
    assert got["log_loss"] == got["loss"] == pytest.approx(log_loss)
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert got["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Of the 6 pairs of a dog and a cat, 0.2 < 0.7 is the one in the wrong order.
    assert got["roc_auc"] == pytest.approx(5 / 6)
    # Ranked by probability: dog 1/1, dog 2/2, cat, dog 3/4.
    assert got["pr_auc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert got["brier"] == pytest.approx((0.1**2 + 0.7**2 + 0.8**2 + 0.2**2 + 0.1**2) / 5)
    assert got["confusion"] == [[1, 1], [1, 2]]
    assert got["classes"]["cat"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2})
    assert got["classes"]["dog"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})
    assert got["undefined"] == {}


def test_calibration_error_weighs_the_gap_of_each_bin_by_its_count():
    # Confidences 0.9, 0.7, 0.8, 0.8, 0.9 of right, wrong, wrong, right, right: bins of 1, 2 and 2 examples.
    bins = reliability(LABELS, PROBABILITIES)
    assert [b["count"] for b in bins] == [1, 2, 2]
    assert [b["accuracy"] for b in bins] == [0, 0.5, 1]
    assert [b["confidence"] for b in bins] == pytest.approx([0.7, 0.8, 0.9])
    assert expected_calibration_error(bins) == pytest.approx((1 * 0.7 + 2 * 0.3 + 2 * 0.1) / 5)


def test_certainty_falls_into_the_last_bin():
    (only,) = reliability(np.array([0, 1]), np.array([0.0, 1.0]))
    assert (only["low"], only["high"], only["count"]) == (14 / 15, 1, 2)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, 1998, Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_stays_within_0_and_1():
    for trials in (1, 2, 7, 100_000):
        assert wilson(0, trials)[0] == pytest.approx(0, abs=1e-12)
        assert wilson(trials, trials)[1] == pytest.approx(1)
        assert 0 < wilson(trials, trials)[0] < 1


def test_one_half_counts_as_cat_as_in_keras():
    assert predicted(np.array([0.5, 0.5000001])).tolist() == [0, 1]


def test_all_right_and_certain_gives_perfect_finite_figures():
    got = summarize(np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]))
    assert (got["accuracy"], got["roc_auc"], got["pr_auc"], got["brier"], got["ece"]) == (1, 1, 1, 0, 0)
    assert got["log_loss"] == pytest.approx(0, abs=1e-6)


def test_certain_and_wrong_costs_as_much_as_in_keras():
    assert summarize(np.array([0, 1]), np.array([0.0, 0.0]))["log_loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_gives_null_with_the_reason_and_never_nan(label):
    got = summarize(np.full(3, label), np.full(3, 0.9 if label else 0.1))
    for name in ("roc_auc", "pr_auc", "balanced_accuracy"):
        assert got[name] is None
        assert ("cat", "dog")[label] in got["undefined"][name]
    absent = ("cat", "dog")[1 - label]
    assert got["classes"][absent] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert f"classes.{absent}.recall" in got["undefined"]
    assert "NaN" not in json.dumps(got, allow_nan=False)
    assert f"every example is a {('cat', 'dog')[label]}" in no_verdict(got)


def test_with_both_classes_there_is_a_verdict():
    assert no_verdict(summarize(np.array([0, 1]), np.array([0.1, 0.2]))) == ""


def test_a_class_that_is_never_predicted_has_no_precision_but_a_recall_of_0():
    got = summarize(np.array([0, 1]), np.array([0.1, 0.2]))
    assert got["classes"]["dog"] == {"precision": None, "recall": 0, "f1": 0, "support": 1}
    assert list(got["undefined"]) == ["classes.dog.precision"]


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        ([], [], "n >= 1"),
        ([0, 1], [0.5], r"\(2,\)"),
        ([0, 2], [0.5, 0.5], "must be 0 or 1"),
        ([0, 1], [0.5, math.nan], "within 0..1"),
        ([0, 1], [0.5, 1.1], "within 0..1"),
    ],
)
def test_input_that_is_no_evaluation_is_refused(labels, probabilities, told):
    with pytest.raises(ValueError, match=told):
        summarize(np.array(labels, np.int64), np.array(probabilities))
