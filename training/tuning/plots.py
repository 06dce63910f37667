"""Plots of a study: how the figure went, what it depends on, and where good values lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.evaluation import new_figure
from training.pipeline import Plot
from training.tuning.space import Axis
from training.tuning.study import Study, Trial

_ACCENT, _GREY, _RED = "#1f5c99", "#b9c3cc", "#b3352f"
_COLUMNS = 3


def history_plot(study: Study) -> Plot:
    """The objective of each trial, and the best so far."""
    done = [trial for trial in study.trials() if trial.state == "done"]
    numbers, values = [trial.number for trial in done], [trial.value or 0.0 for trial in done]
    best = (np.minimum if study.plan.smaller_is_better else np.maximum).accumulate(values)
    figure, axes = new_figure(width=5.6, height=4.6)
    axes.plot(numbers, values, "o", color=_ACCENT, markersize=4, label="trial")
    axes.step(numbers, best, where="post", color=_RED, linewidth=1.2, label="best so far")
    for state, mark, colour in (("pruned", "v", _GREY), ("failed", "x", _RED)):
        there = [trial.number for trial in study.trials() if trial.state == state]
        if there:
            axes.plot(there, [max(values)] * len(there), mark, color=colour, label=f"{state} (no figure)")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{study.plan.objective} on validation rows")
    axes.legend(fontsize=8)
    return Plot(
        "Trials", "The first trial has the options as they are; the line falls or rises where tuning paid.", figure
    )


def importance_plot(importances: dict[str, float]) -> Plot:
    """What the differences between trials are due to."""
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    figure, axes = new_figure(width=5.6, height=max(2.0, 0.9 + 0.45 * len(names)))
    axes.barh(names, shares, color=_ACCENT)
    axes.set_xlabel("share of the variance of the figure")
    caption = "By functional ANOVA over the trials that are done. With few trials it is a hint, not a finding."
    return Plot("Importance", caption, figure)


def slices_plot(study: Study) -> Plot:
    """The objective against each searched option."""
    axes_of, done = study.plan.axes, [trial for trial in study.trials() if trial.state == "done" and trial.options]
    rows = -(-len(axes_of) // _COLUMNS)
    columns = min(_COLUMNS, len(axes_of))
    figure, grid = new_figure(width=3.1 * columns + 0.6, height=2.6 * rows, nrows=rows, ncols=columns, squeeze=False)
    best = study.best()
    for place, axis in zip(grid.flat, axes_of, strict=False):
        _slice(place, axis, done, best)
    for place in list(grid.flat)[len(axes_of) :]:
        place.set_axis_off()
    for line in grid:
        line[0].set_ylabel(study.plan.objective)
    caption = (
        "Each point is a trial, darker the later; the best one is marked. "
        "Good values that crowd at an end ask for a wider range."
    )
    return Plot("Values", caption, figure)


def _slice(place: Any, axis: Axis, done: Sequence[Trial], best: Trial) -> None:
    values = [getattr(trial.options, axis.name) for trial in done]
    texts = [str(value) for value in values]
    if axis.search is None:
        names = sorted(set(texts))
        at: list[Any] = [names.index(text) for text in texts]
        place.set_xticks(range(len(names)), names, rotation=30)
    else:
        at = [float(np.mean(value)) for value in values]
        low, high = axis.search.low, axis.search.high
        margin = (high / low) ** 0.06 if axis.search.log else 0.06 * (high - low)
        place.set_xlim(*((low / margin, high * margin) if axis.search.log else (low - margin, high + margin)))
        if axis.search.log:
            ticks = [low, float(np.sqrt(low * high)), high]
            place.set_xscale("log")
            place.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            place.minorticks_off()
    figures = [trial.value or 0.0 for trial in done]
    place.scatter(
        at, figures, c=range(len(done)), cmap="Blues", vmin=-len(done), s=18, edgecolors=_ACCENT, linewidths=0.4
    )
    index = next(index for index, trial in enumerate(done) if trial.number == best.number)
    place.plot(at[index], figures[index], "*", color=_RED, markersize=11)
    place.set_xlabel(axis.name)
