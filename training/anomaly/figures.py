"""Figures and plots of the autoencoder's report."""

from typing import Any

import numpy as np

from training.anomaly.rows import KINDS, AnomalyExamples
from training.evaluation import new_figure
from training.pipeline import Arrays, Plot

_RED = "#b3352f"
_SMALLEST = 1e-12
_MOST_COLOURS = 10
_MOST_POINTS = 3000


def detection(scores: np.ndarray, flags: np.ndarray, test: AnomalyExamples) -> dict[str, float]:
    """How well scores rank anomalies above normal rows, and what the flags catch; without anomalies, what is flagged."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    normal = test.targets == 0
    metrics = {
        "reconstruction_error": float(scores[normal].mean()) if normal.any() else float(scores.mean()),
        "false_alarm_rate": float(flags[normal].mean()) if normal.any() else 0.0,
    }
    if len(np.unique(test.targets)) < 2:
        return metrics
    precision, recall, f1, _ = precision_recall_fscore_support(test.targets, flags, average="binary", zero_division=0.0)
    return {
        "roc_auc": float(roc_auc_score(test.targets, scores)),
        "average_precision": float(average_precision_score(test.targets, scores)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        **metrics,
    }


def score_plot(scores: np.ndarray, test: AnomalyExamples, threshold: float, rule: str, units: str) -> Plot:
    """Histogram of the held-out scores of each kind, and the threshold among them."""
    figure, axes = new_figure(width=5.6, height=4.6)
    logs = np.log10(np.maximum(scores, _SMALLEST))
    edges = np.linspace(logs.min(), logs.max() + 1e-9, 36)
    for index, label in enumerate(KINDS if test.labels else ("all rows",)):
        axes.hist(logs[test.targets == index], bins=edges, alpha=0.65, label=label)
    line = np.log10(max(threshold, _SMALLEST))
    axes.axvline(line, color=_RED, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set_xlabel(f"score (mean squared error in {units}), power of ten")
    axes.set_ylabel("held-out rows")
    axes.legend()
    caption = f"Normal rows belong left of the threshold, anomalous ones right of it. The threshold: {rule}."
    return Plot("Scores", caption, figure)


def roc_plot(outputs: Arrays, test: AnomalyExamples) -> Plot:
    """The ROC curve, with the threshold's place on it."""
    from sklearn.metrics import roc_curve

    figure, axes = new_figure(width=5.6, height=4.6)
    false_alarms, caught, _ = roc_curve(test.targets, outputs["score"])
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="chance")
    axes.plot(false_alarms, caught, label="model")
    flags = outputs["is_anomaly"]
    point = flags[test.targets == 0].mean(), flags[test.targets == 1].mean()
    axes.plot(*point, "o", color=_RED, label="at the threshold")
    axes.set_xlabel("share of normal rows flagged")
    axes.set_ylabel("share of anomalous rows caught")
    axes.legend(loc="lower right")
    return Plot("Receiver operating characteristic", "The higher and further left the curve, the better.", figure)


def threshold_plot(scores: np.ndarray, test: AnomalyExamples, threshold: float) -> Plot:
    """Precision, recall and F1 that each threshold would have on the held-out rows."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, values = precision_recall_curve(test.targets, scores)
    precision, recall = precision[:-1], recall[:-1]
    figure, axes = new_figure(width=5.6, height=4.6)
    at = np.maximum(values, _SMALLEST)
    for name, curve in (
        ("precision", precision),
        ("recall", recall),
        ("F1", 2 * precision * recall / np.maximum(precision + recall, _SMALLEST)),
    ):
        axes.plot(at, curve, drawstyle="steps-pre", label=name)
    axes.axvline(max(threshold, _SMALLEST), color=_RED, linewidth=1.4, linestyle="--", label="threshold")
    axes.set_xscale("log")
    axes.set_xlabel("threshold")
    axes.legend(loc="lower left")
    caption = "What other thresholds would come to on the held-out rows. They had no say in the one that was chosen."
    return Plot("Thresholds", caption, figure)


def code_map(codes: np.ndarray, test: AnomalyExamples) -> Plot:
    """The codes f32 `[rows, K]` of the held-out rows in two dimensions, coloured by the data's classes."""
    places, x, y, how = _in_two(codes[:_MOST_POINTS])
    figure, axes = new_figure(width=5.6, height=4.6)
    kinds, names = _colours(test)
    kinds = kinds[:_MOST_POINTS]
    for index, name in enumerate(names):
        of_kind = places[kinds == index]
        axes.plot(*of_kind.T, ".", markersize=4, alpha=0.7, color=f"C{index}", label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(names) > 1:
        axes.legend(fontsize=8, markerscale=2)
    caption = f"{how} Rows that are alike lie together; classes that part here can be told apart by their codes."
    return Plot("Map of the codes", caption, figure)


def _in_two(codes: np.ndarray) -> tuple[np.ndarray, str, str, str]:
    """Two coordinates per row, what their axes are called, and where they come from."""
    count = codes.shape[1]
    if count == 1:
        places = np.column_stack([codes[:, 0], np.random.default_rng(0).uniform(-1, 1, len(codes))])
        return places, "the code", "at random", "The code of each held-out row is one number, spread upwards at random."
    if count == 2:
        return (
            codes,
            "first number",
            "second number",
            "The code of each held-out row is two numbers, shown as they are.",
        )
    centred = codes.astype(np.float64) - codes.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    shares = np.square(sizes) / max(np.square(sizes).sum(), _SMALLEST)
    how = (
        f"Codes of {count} numbers on their first two principal components, which hold {shares[:2].sum():.0%} of their "
        "variance: a straight view, in which distances are never larger than they are."
    )
    names = [f"principal component {index + 1} ({share:.0%})" for index, share in enumerate(shares[:2])]
    return centred @ axes[:2].T, names[0], names[-1] if len(names) > 1 else "", how


def _colours(test: AnomalyExamples) -> tuple[np.ndarray, tuple[Any, ...]]:
    """What tells the points apart: the data's classes, or normal and anomalous where there are too many, or nothing."""
    if test.classes is not None and len(test.class_labels) <= _MOST_COLOURS:
        return test.classes, test.class_labels
    return test.targets, KINDS if test.labels else ("held-out rows",)
