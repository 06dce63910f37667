"""The plots of a load test's report, as SVG text."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import floor, log, nan
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.loadtest.result import label

_INK, _SOFT, _LINE = "#1d2733", "#5d6b7a", "#e1e6eb"
_COLOURS = ("#1f5c99", "#d98324", "#1e7d48", "#b3352f", "#6b4fa0", "#0f8b8d", "#8a6d3b", "#c2589c")
_MOST_HISTOGRAMS = 8

Steps = Sequence[Mapping[str, Any]]


def latency_over_load(steps: Steps) -> str:
    """Percentiles of good answers by load, on a logarithmic scale of time; the loads in rising order."""
    ordered = sorted(_with_latency(steps), key=_value)
    with _figure() as (axes, text):
        places = range(len(ordered))
        for colour, name in zip(_COLOURS, ("p50", "p90", "p99", "p999"), strict=False):
            shown = name if name != "p999" else "p99.9"
            axes.plot(places, [step["latency_ms"][name] for step in ordered], "o-", color=colour, label=shown)
        axes.set_yscale("log")
        axes.set_xticks(places, [f"{_value(step):g}" for step in ordered], rotation=30 if len(ordered) > 8 else 0)
        axes.set_xlabel(
            "callers" if ordered and ordered[0]["load"]["kind"] == "closed" else "requests per second offered"
        )
        axes.set_ylabel("latency, ms")
        _legend(axes)
    return text()


def latency_histogram(steps: Steps) -> str:
    """How the latencies of each step are spread, as shares per bucket of the logarithmic scale."""
    with _figure() as (axes, text):
        for colour, step in zip(_COLOURS, _spread(_with_latency(steps), _MOST_HISTOGRAMS), strict=False):
            bounds, counts = step["histogram"]["upper_bounds_ms"], step["histogram"]["counts"]
            total = sum(counts)
            xs, ys = _merged(bounds, [count / total * 100 for count in counts])
            axes.step(xs, ys, where="mid", color=colour, label=label(step), linewidth=1.4)
        axes.set_xscale("log")
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("answers, % per bucket")
        _legend(axes)
    return text()


def answers_over_time(steps: Steps, seconds: float) -> str:
    """Good answers and errors by code, second by second; steps stand one behind the other, with a gap between them.

    What comes in after the `seconds` of a step are stragglers: a second that holds nothing but them is left out, unless it
    holds errors.
    """
    kept = [[entry for entry in step["timeline"] if entry["second"] < seconds or entry["errors"]] for step in steps]
    codes = sorted({code for entries in kept for entry in entries for code in entry["errors"]})
    good: list[float] = []
    errors: dict[str, list[float]] = {code: [] for code in codes}
    for entries in kept:
        good += [*(entry["ok"] for entry in entries), nan]
        for code in codes:
            errors[code] += [*(entry["errors"].get(code, 0) for entry in entries), nan]
    with _figure() as (axes, text):
        axes.plot(range(len(good)), good, ".-", color=_COLOURS[2], label="good answers")
        for colour, code in zip(_COLOURS[3:], codes, strict=False):
            axes.plot(range(len(good)), errors[code], ".-", color=colour, label=code)
        if not codes:
            axes.plot([], [], color=_COLOURS[3], label="no errors")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("second of the test, warm-up left out")
        axes.set_ylabel("per second")
        _legend(axes)
    return text()


def server_beside_client(steps: Steps) -> str:
    """Mean latency at the client beside the server's own queue and compute time, by load."""
    ordered = sorted((step for step in _with_latency(steps) if step["server"]), key=_value)
    with _figure() as (axes, text):
        places = range(len(ordered))
        means = [step["latency_ms"]["mean"] for step in ordered]
        axes.bar([place - 0.2 for place in places], means, 0.38, color=_COLOURS[0], label="client: mean latency")
        below = [0.0] * len(ordered)
        for colour, phase in ((_COLOURS[1], "queue"), (_COLOURS[2], "compute")):
            heights = [step["server"]["phases"].get(phase, {}).get("mean_ms", 0.0) for step in ordered]
            axes.bar(
                [place + 0.2 for place in places], heights, 0.38, bottom=below, color=colour, label=f"server: {phase}"
            )
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.set_xticks(places, [f"{_value(step):g}" for step in ordered])
        axes.set_xlabel(
            "callers" if ordered and ordered[0]["load"]["kind"] == "closed" else "requests per second offered"
        )
        axes.set_ylabel("mean, ms")
        _legend(axes)
    return text()


@contextmanager
def _figure() -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes in the report's style, and what turns them into SVG once they are drawn."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_SOFT)
    axes.tick_params(colors=_SOFT, which="both")
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(visible=True, color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)

    def text() -> str:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        _, start, rest = buffer.getvalue().partition("<svg")  # what stands before is XML's, not HTML's
        return start + rest

    yield axes, text


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _with_latency(steps: Steps) -> list[Mapping[str, Any]]:
    return [step for step in steps if step["ok"]]


def _value(step: Mapping[str, Any]) -> float:
    load = step["load"]
    return float(load["concurrency"] if load["kind"] == "closed" else load["rate_per_s"])


def _spread(steps: Steps, most: int) -> list[Mapping[str, Any]]:
    """At most that many of the steps, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def _merged(bounds: Sequence[float], shares: Sequence[float]) -> tuple[list[float], list[float]]:
    """Buckets joined into ones of a tenth: those of 2 % are too fine to see a shape in."""
    joined: dict[int, float] = {}
    scale = log(1.1)
    for bound, share in zip(bounds, shares, strict=True):
        bucket = floor(log(bound) / scale)
        joined[bucket] = joined.get(bucket, 0.0) + share
    reach = range(min(joined) - 1, max(joined) + 2)
    return [1.1 ** (bucket + 0.5) for bucket in reach], [joined.get(bucket, 0.0) for bucket in reach]
