"""The HTML report of a load test: one file, nothing loaded from elsewhere."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from services.files import write_whole
from services.loadtest.plots import answers_over_time, latency_histogram, latency_over_load, server_beside_client
from services.loadtest.result import label

_TEMPLATE = "report.html"


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Write the report of a result (`result.read`, or what a run returned)."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    steps = result["steps"]
    page = template.render(
        result=result,
        target=result["target"],
        steps=[(label(step), step) for step in steps],
        best=max(steps, key=lambda step: step["ok_per_s"]),
        plots=_plots(result),
    )
    write_whole(path, page, f"the report {path}")


def _plots(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Title, SVG and caption. The SVG is matplotlib's own, all text of the result in it drawn as paths."""
    steps = result["steps"]
    open_loop = steps[0]["load"]["kind"] != "closed"
    counted = "Counted from the time a request was due." if open_loop else "Counted from the time a request was sent."
    plots = []
    if any(step["ok"] for step in steps):
        plots.append(("Latency over load", latency_over_load(steps), f"Good answers only. {counted}"))
        plots.append(
            ("Latency histogram", latency_histogram(steps), "Share of the good answers of a step per bucket of 10 %.")
        )
    over_time = answers_over_time(steps, result["bounds"]["seconds"])
    plots.append(("Answers and errors over time", over_time, "Steps stand one behind the other."))
    if any(step["server"] and step["ok"] for step in steps):
        caption = "What the server measured itself: the rest is transport, encoding, and waiting outside its queue."
        plots.append(("Server beside client", server_beside_client(steps), caption))
    return plots


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
