"""The plots of a comparison: what a better metric costs, and what each version gets right and wrong."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from training.comparison.candidates import Candidate
from training.comparison.result import Comparison, Entry
from training.evaluation import confusion_plot, new_figure, rmse
from training.forecasting import ForecastOptions, SeriesExamples, naive_forecast
from training.pipeline import Arrays, Plot

_STEPS_SHOWN = 120
_MOST_CONFUSIONS = 8


def plots_of(comparison: Comparison, candidates: Sequence[Candidate], outputs: Sequence[Arrays]) -> list[Plot]:
    """The two trade-offs, then what fits the task."""
    by_task = {
        "forecasting": _forecasts,
        "regression": _regression,
        "anomaly_detection": _anomalies,
    }
    own = by_task.get(comparison.task, _confusions if candidates[0].manifest.labels else None)
    return [
        _trade_off(
            comparison,
            "Metric and latency",
            "median ms of one row through the engine",
            [entry.latency(1).p50_ms for entry in comparison.entries],
        ),
        _trade_off(
            comparison, "Metric and size", "ONNX file, kB", [entry.onnx_bytes / 1e3 for entry in comparison.entries]
        ),
        *(own(comparison, candidates, outputs) if own else []),
    ]


def _trade_off(comparison: Comparison, title: str, label: str, costs: Sequence[float]) -> Plot:
    figure, axes = new_figure(width=5.6, height=4.6)
    metric = comparison.metric
    for cost, entry in zip(costs, comparison.entries, strict=True):
        spread = _spread(entry, comparison)
        axes.errorbar(cost, entry.metrics[metric], yerr=spread, fmt="o", capsize=3, label=entry.title)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.legend()
    axes.set_xlabel(label)
    axes.set_ylabel(metric)
    whiskers = " Bars: where the difference from the best may lie by chance." if comparison.resamples else ""
    return Plot(
        title, f"Better costs more, or it does not: a version that is worse in both is not needed.{whiskers}", figure
    )


def _spread(entry: Entry, comparison: Comparison) -> Any:
    """Bars from the value to where the interval of its difference from the best would put it; none for the best."""
    difference = entry.difference
    if difference is None or not comparison.resamples:
        return None
    return [[max(0.0, difference.value - difference.low)], [max(0.0, difference.high - difference.value)]]


def _confusions(comparison: Comparison, candidates: Sequence[Candidate], outputs: Sequence[Arrays]) -> list[Plot]:
    targets, labels = comparison.rows.examples[0].targets, candidates[0].manifest.labels
    plots = []
    for candidate, answers in list(zip(candidates, outputs, strict=True))[:_MOST_CONFUSIONS]:
        plot = confusion_plot(answers["probabilities"], targets, labels)
        plots.append(replace(plot, title=f"{candidate.title}: confusion"))
    return plots


def _forecasts(comparison: Comparison, candidates: Sequence[Candidate], outputs: Sequence[Arrays]) -> list[Plot]:
    test = cast("SeriesExamples", comparison.rows.examples[0])
    rows = test.rows_of(0)[-_STEPS_SHOWN:]
    last = test.targets.shape[1] - 1
    figure, axes = new_figure(width=8.0)
    axes.plot(test.times[rows, last], test.targets[rows, last], color="black", linewidth=1.4, label="actual")
    for candidate, answers in zip(candidates, outputs, strict=True):
        axes.plot(test.times[rows, last], answers["forecast"][rows, last], linewidth=1, label=candidate.title)
    axes.set_ylabel(test.name)
    axes.tick_params(axis="x", rotation=20)
    axes.legend()
    of = f" of the series {test.names[0]}" if len(test.names) > 1 else ""
    over_time = Plot(f"Forecasts {last + 1} ahead", f"The last {len(rows)} held-out rows{of}.", figure)

    figure, axes = new_figure()
    steps = np.arange(1, last + 2)
    lines = [(candidate.title, answers["forecast"]) for candidate, answers in zip(candidates, outputs, strict=True)]
    naive = naive_forecast(test, cast("ForecastOptions", candidates[0].options))
    for label, values in (*lines, naive):
        errors = [rmse(values[:, step - 1], test.targets[:, step - 1]) for step in steps]
        axes.plot(steps, errors, marker="o", label=label, linestyle="--" if label == naive[0] else "-")
    axes.set_xlabel("rows ahead")
    axes.set_ylabel(f"RMSE of {test.name}")
    axes.legend()
    by_step = Plot("Error by step", "Lines that lie on each other are equally good, however much one costs.", figure)
    return [over_time, by_step]


def _regression(comparison: Comparison, candidates: Sequence[Candidate], outputs: Sequence[Arrays]) -> list[Plot]:
    target = comparison.rows.examples[0].targets.ravel()
    figure, axes = new_figure()
    for candidate, answers in zip(candidates, outputs, strict=True):
        errors = np.sort(np.abs(answers["prediction"].ravel() - target))
        axes.plot(errors, np.linspace(0, 100, len(errors)), label=candidate.title)
    axes.set_xlabel("absolute error, in target units")
    axes.set_ylabel("held-out rows within it, %")
    axes.legend()
    return [
        Plot("Errors", "The further left and up, the better; where the lines cross, each is better for some.", figure)
    ]


def _anomalies(comparison: Comparison, candidates: Sequence[Candidate], outputs: Sequence[Arrays]) -> list[Plot]:
    from sklearn.metrics import roc_curve

    targets = comparison.rows.examples[0].targets
    if len(np.unique(targets)) < 2:
        return []
    figure, axes = new_figure(width=5.6, height=4.6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="chance")
    for candidate, answers in zip(candidates, outputs, strict=True):
        false_alarms, caught, _ = roc_curve(targets, answers["score"])
        axes.plot(false_alarms, caught, label=candidate.title)
    axes.set_xlabel("share of normal rows flagged")
    axes.set_ylabel("share of anomalous rows caught")
    axes.legend(loc="lower right")
    return [Plot("Receiver operating characteristic", "The higher and further left the curve, the better.", figure)]
