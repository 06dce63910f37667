"""Figures and splits that families share."""

import numpy as np
import pytest

from services.errors import DataError
from training.evaluation import (
    classification_metrics,
    confidence_plot,
    confusion_plot,
    regression_metrics,
)
from training.pipeline import CommonOptions
from training.splits import stratified_split, time_split

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]], np.float32)
TARGETS = np.array([0, 0, 1, 0, 1])


def test_two_classes_report_the_rarer_ones_f1() -> None:
    metrics = classification_metrics(PROBABILITIES, TARGETS, ("ham", "spam"))
    assert metrics["accuracy"] == pytest.approx(0.6)
    assert metrics["f1_spam"] == pytest.approx(0.5)
    assert metrics["f1"] == metrics["f1_spam"]
    assert metrics["macro_f1"] == pytest.approx((metrics["f1_ham"] + metrics["f1_spam"]) / 2)
    assert metrics["roc_auc"] == pytest.approx(5 / 6)


def test_log_loss_stays_finite_where_a_right_class_had_no_chance() -> None:
    metrics = classification_metrics(np.array([[1.0, 0.0], [0.5, 0.5]], np.float32), np.array([1, 1]))
    assert 10 < metrics["log_loss"] < 100


def test_many_classes_are_not_listed_one_by_one() -> None:
    metrics = classification_metrics(np.eye(30, dtype=np.float32), np.arange(30))
    assert sorted(metrics) == ["accuracy", "log_loss", "macro_f1"]


def test_regression_figures_are_in_the_targets_units() -> None:
    metrics = regression_metrics(np.array([[1.0], [4.0]]), np.array([[1.0], [1.0 + 1e-9]]))
    assert metrics["rmse"] == pytest.approx(3 / np.sqrt(2))
    assert metrics["mae"] == pytest.approx(1.5)


def test_plots_take_many_classes() -> None:
    probabilities = np.full((200, 100), 0.01, np.float32)
    targets = np.arange(200) % 100
    for plot in (confusion_plot(probabilities, targets), confidence_plot(probabilities, targets)):
        plot.figure.canvas.draw()


def test_a_split_is_disjoint_complete_and_keeps_the_shares() -> None:
    targets = np.repeat([0, 1], [900, 100])
    split = stratified_split(targets, CommonOptions(seed=3))
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    assert [targets[part].mean() for part in parts] == pytest.approx([0.1] * 3)


def test_a_split_repeats_by_its_seed() -> None:
    targets = np.arange(100) % 3
    first, again, other = (stratified_split(targets, CommonOptions(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_a_class_of_one_row_is_for_training() -> None:
    split = stratified_split(np.array([0] * 50 + [1]), CommonOptions())
    assert 50 in split.train


def test_too_few_rows_for_three_parts_are_refused() -> None:
    with pytest.raises(DataError, match="at least one row in each part"):
        stratified_split(np.array([0, 1]), CommonOptions())


def test_time_is_cut_in_order() -> None:
    assert time_split(100, CommonOptions(test_share=0.2, validation_share=0.25)) == (60, 80)
