"""Which differences between versions are more than the chance of which rows were held out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from training.comparison.candidates import Candidate
from training.pipeline import Arrays, Examples
from training.report import is_error

MOST_RESAMPLES = 1000
_LEAST_RESAMPLES = 100
_BUDGET_S = 20.0
_SEED = 0
_JUDGED_TOGETHER = ("image_features", "text_to_image")
"""Tasks whose metric compares the rows with each other: a row that is drawn twice would be its own nearest, or no variety."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A candidate's metric less the best one's, and the interval that holds it in 95 % of the resamples of the rows."""

    value: float
    low: float
    high: float

    @property
    def chance(self) -> bool:
        """Whether other rows might have turned it around: no difference lies within the interval."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Judgement:
    """Metrics of each candidate, the index of the best by `metric`, and the others' differences from it.

    `metric` is the family's primary one, or the first there is where the rows do not give that.

    `differences` holds None for the best; `resamples` is how many they are judged by, 0 where the metric cannot be judged so.
    """

    metric: str
    metrics: tuple[dict[str, float], ...]
    best: int
    differences: tuple[Difference | None, ...]
    resamples: int


def judge(candidates: Sequence[Candidate], outputs: Sequence[Arrays], examples: Sequence[Examples]) -> Judgement:
    """The families' own metrics, and a paired bootstrap of the primary one: all candidates on the same resampled rows.

    Rows of a series hang together, as each window holds most of its neighbours: they are drawn in stretches. Source: Efron,
    Tibshirani 1993, "An Introduction to the Bootstrap", sections 8.6 and 13.3.
    """
    metrics = tuple(
        candidate.pipeline.evaluate(answers, rows, candidate.options)
        for candidate, answers, rows in zip(candidates, outputs, examples, strict=True)
    )
    metric = candidates[0].pipeline.primary_metric
    if metric not in metrics[0]:  # without labels there is no detection to measure, for one
        metric = next(iter(metrics[0]))
    sign = -1 if is_error(metric) else 1
    best = int(np.argmax([sign * values[metric] for values in metrics]))
    samples = _resampled(candidates, outputs, examples, metric)
    if not len(samples):
        return Judgement(metric, metrics, best, (None,) * len(candidates), 0)
    apart = samples - samples[:, best : best + 1]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(apart, (tail, 100 - tail), axis=0)
    differences = tuple(
        None
        if index == best
        else Difference(metrics[index][metric] - metrics[best][metric], float(low[index]), float(high[index]))
        for index in range(len(candidates))
    )
    return Judgement(metric, metrics, best, differences, len(samples))


def _resampled(
    candidates: Sequence[Candidate], outputs: Sequence[Arrays], examples: Sequence[Examples], metric: str
) -> np.ndarray:
    """The metric of every candidate f64 `[resamples, candidates]`; fewer resamples where one takes long."""
    if candidates[0].manifest.task in _JUDGED_TOGETHER:
        return np.empty((0, len(candidates)))
    draw = _drawer(candidates[0], examples[0])
    samples: list[list[float]] = []
    began = time.perf_counter()
    for _ in range(MOST_RESAMPLES):
        rows = draw()
        values = [
            candidate.pipeline.evaluate(
                {name: answers[rows] for name, answers in own.items()}, take(example, rows), candidate.options
            ).get(metric, np.nan)
            for candidate, own, example in zip(candidates, outputs, examples, strict=True)
        ]
        if np.isfinite(values).all():
            samples.append(values)
        if len(samples) >= _LEAST_RESAMPLES and time.perf_counter() - began > _BUDGET_S:
            break
    return np.array(samples) if len(samples) >= _LEAST_RESAMPLES else np.empty((0, len(candidates)))


def _drawer(candidate: Candidate, examples: Examples) -> Callable[[], np.ndarray]:
    random, count = np.random.default_rng(_SEED), len(examples)
    if candidate.manifest.task != "forecasting":
        return lambda: random.integers(0, count, count)
    length = min(count, max(examples.targets.shape[1], round(count ** (1 / 3))))
    starts = -(-count // length)

    def stretches() -> np.ndarray:
        first = random.integers(0, count - length + 1, starts)
        rows: np.ndarray = (first[:, None] + np.arange(length)).ravel()[:count]
        return rows

    return stretches


def take(examples: Examples, rows: np.ndarray) -> Examples:
    """The examples at these indices, whatever a family's own hold beside inputs and targets."""
    count = len(examples)
    changes: dict[str, Any] = {
        each.name: value[rows]
        for each in fields(examples)
        if isinstance(value := getattr(examples, each.name), np.ndarray) and len(value) == count
    }
    inputs = {name: values[rows] for name, values in examples.inputs.items()}
    return replace(examples, inputs=inputs, **changes)
