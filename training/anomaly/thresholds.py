"""From validation scores to the threshold that the served model flags by. The test part has no say."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.errors import DataError
from training.anomaly.options import AutoencoderOptions


@dataclass(frozen=True)
class Chosen:
    """A threshold, and in words how it was found. Scores above it are anomalies."""

    value: float
    rule: str


def choose_threshold(scores: np.ndarray, anomalous: np.ndarray | None, options: AutoencoderOptions) -> Chosen:
    """The threshold by the rule of the options.

    `scores` f32 `[rows]`, `anomalous` bool `[rows]`, or `None` where nobody has said. Raises DataError where the rule
    needs labelled rows of both kinds and `check_labelled` was not asked before.
    """
    count = len(scores)
    if options.threshold == "share" and options.share is not None:
        rule = f"{options.share:g} of {count} validation rows lie above"
        return Chosen(float(np.quantile(scores, 1 - options.share)), rule)
    if options.threshold == "labelled":
        anomalous = check_labelled(anomalous)
        value = _least(scores, anomalous, _loss(options))
        wanted = {
            "f1": "best F1",
            "recall": f"fewest false alarms at a recall of at least {options.recall:g}",
            "cost": f"least cost where a missed anomaly costs {options.miss_cost:g} false alarms",
        }[options.aim]
        return Chosen(value, f"{wanted} on {count} validation rows, {int(anomalous.sum())} of them anomalous")
    known = anomalous is not None and options.learn == "normal"
    normal = scores[~anomalous] if known and anomalous is not None else scores
    rule = f"{options.quantile:g} of {len(normal)} {'normal ' if known else ''}validation rows lie below"
    return Chosen(float(np.quantile(normal, options.quantile)), rule)


def check_labelled(anomalous: np.ndarray | None) -> np.ndarray:
    """The labels of the validation rows. Raises DataError where there are none, or of one kind alone."""
    if anomalous is None:
        raise DataError(
            "Expected labelled rows for threshold=labelled: a target, and for pictures the option normal. Received: none."
        )
    odd = int(anomalous.sum())
    if odd in (0, len(anomalous)):
        raise DataError(
            "Expected normal and anomalous rows in the validation part for threshold=labelled. "
            f"Received: {len(anomalous) - odd} normal, {odd} anomalous; a larger validation_share may help."
        )
    return anomalous


Loss = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""From caught and false alarms by candidate, and the number of anomalies, to what is to be small."""


def _loss(options: AutoencoderOptions) -> Loss:
    if options.aim == "recall":
        return lambda caught, alarms, odd: np.where(caught >= options.recall * odd - 1e-9, alarms, np.inf)
    if options.aim == "cost":
        return lambda caught, alarms, odd: options.miss_cost * (odd - caught) + alarms
    return lambda caught, alarms, odd: -2 * caught / (odd + caught + alarms)


def _least(scores: np.ndarray, anomalous: np.ndarray, loss: Loss) -> float:
    """The threshold of least loss, between two neighbouring scores: their geometric mean, for errors span powers of ten.

    Of equal ones the highest, which raises the fewest alarms; to flag nothing is one of the choices.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, odd = np.append(scores[order].astype(np.float64), 0.0), anomalous[order]
    flagged = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)
    caught, alarms = (np.append(0, np.cumsum(kind))[flagged] for kind in (odd, ~odd))
    count = int(flagged[np.argmin(loss(caught, alarms, int(odd.sum())))])
    if count == 0:
        return float(ranked[0])
    above, below = ranked[count - 1], ranked[count]
    middle = float(np.sqrt(above * below))
    return middle if below <= np.float32(middle) < above else float(below)
