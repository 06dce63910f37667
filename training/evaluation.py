"""Figures and plots that several families share: what a metric is called here, it is called everywhere.

Classes are given by index; `labels` names them, in the order of the probabilities' columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.pipeline import Baseline, Examples, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES_LISTED = 20
"""With more classes the per-class F1 stays out of the tables; the confusion matrix shows it."""

_MOST_CELLS_WRITTEN = 12
_MOST_TICKS = 30


def classification_metrics(
    probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str] = ()
) -> dict[str, float]:
    """Accuracy, macro F1, log loss, F1 per class, and for two classes ROC AUC and the rarer class's F1.

    `probabilities` is f32 `[rows, C]`, `targets` integer `[rows]`. `f1` (two classes only) is that of the class which is
    rarer in `targets`, the one a detector is built for; macro F1 averages over all `C` classes, and a class that neither
    occurs nor is predicted counts as 0. A label's own score is named `f1_<label>`.
    """
    from sklearn.metrics import roc_auc_score

    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    per_class = _f1_by_class(predicted, targets, len(classes))
    metrics = {
        "accuracy": float(np.mean(predicted == targets)),
        "macro_f1": float(np.mean(per_class)),
        "log_loss": _log_loss(probabilities, targets),
    }
    if len(classes) == 2:
        rarer = int(np.argmin(np.bincount(targets, minlength=2)))
        metrics["f1"] = float(per_class[rarer])
        if len(np.unique(targets)) == 2:
            metrics["roc_auc"] = float(roc_auc_score(targets, probabilities[:, 1]))
    if len(classes) <= MOST_CLASSES_LISTED:
        names = labels or [str(index) for index in classes]
        metrics |= {f"f1_{name}": float(score) for name, score in zip(names, per_class, strict=True)}
    return metrics


def classifier_baseline(name: str, fitted: Any, rows: Any, test: Examples) -> Baseline:
    """What a fitted scikit-learn classifier makes of the held-out `rows`, its view of `test.inputs`.

    A class that was not among its training rows gets the probability 0.
    """
    probabilities = np.zeros((len(test), len(test.labels)), np.float32)
    probabilities[:, fitted.classes_] = fitted.predict_proba(rows)
    return Baseline(name, classification_metrics(probabilities, test.targets, test.labels))


def balanced_weights(targets: np.ndarray) -> np.ndarray:
    """A weight f32 per row by which every class weighs the same in sum, and a row 1 on average."""
    counts = np.bincount(targets)
    weights = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(weights[targets], np.float32)


def regression_metrics(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Root mean square error and mean absolute error in the target's units, and R squared. Any equal shapes."""
    from sklearn.metrics import r2_score

    prediction, target = prediction.astype(np.float64).ravel(), target.astype(np.float64).ravel()
    return {
        "rmse": rmse(prediction, target),
        "mae": float(np.mean(np.abs(prediction - target))),
        "r2": float(r2_score(target, prediction)),
    }


def rmse(prediction: np.ndarray, target: np.ndarray) -> float:
    """Root mean square error over all elements, in the target's units."""
    return float(np.sqrt(np.mean(np.square(prediction.astype(np.float64) - target.astype(np.float64)))))


def confusion_plot(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str] = ()) -> Plot:
    """The confusion matrix: true class per row, answered class per column, coloured by the share of its row."""
    from sklearn.metrics import confusion_matrix

    count = probabilities.shape[1]
    names = list(labels) or [str(index) for index in range(count)]
    matrix = confusion_matrix(targets, probabilities.argmax(axis=1), labels=np.arange(count))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(width=2.0 + min(0.55 * count, 8.0), height=1.6 + min(0.5 * count, 7.0))
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(0, count, 1 + (count - 1) // _MOST_TICKS)
    axes.set_xticks(ticks, [names[tick] for tick in ticks], rotation=90 if count > 4 else 0)
    axes.set_yticks(ticks, [names[tick] for tick in ticks])
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    if count <= _MOST_CELLS_WRITTEN:
        _write_cells(axes, matrix, shares)
    return Plot("Confusion matrix", "Rows off the diagonal are mistakes: which class is taken for which.", figure)


def confidence_plot(probabilities: np.ndarray, targets: np.ndarray) -> Plot:
    """How sure the answers were: the highest probability of each row, right answers beside wrong ones."""
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    figure, axes = new_figure()
    edges = np.linspace(0.0, 1.0, 21)
    axes.hist([sure[right], sure[~right]], bins=edges, stacked=True, label=["right", "wrong"])
    axes.set_yscale("log")
    axes.set_xlabel("probability of the answer")
    axes.set_ylabel("rows")
    axes.legend()
    return Plot("Certainty", "Wrong answers should lie to the left; rows are counted on a logarithmic scale.", figure)


def new_figure(*, width: float = 7.0, height: float = 4.0, **subplots: Any) -> "tuple[Figure, Any]":
    """A figure that no global state of matplotlib holds on to, and its axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def _f1_by_class(predicted: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """F1 f64 `[classes]`; 0 for a class that neither occurs nor is predicted. scikit-learn's is forty times slower."""
    counts = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)
    found, concerned = 2.0 * counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1)
    scores: np.ndarray = np.divide(found, concerned, out=np.zeros(classes), where=concerned > 0)
    return scores


def _log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean of minus the logarithm of the right class's probability; one of 0 counts as the smallest float32."""
    right = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())


def _write_cells(axes: "Axes", matrix: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), number in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{number}", ha="center", va="center", color=colour, fontsize=8)
