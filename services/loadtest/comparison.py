"""Two results side by side, as ratios."""

from collections.abc import Mapping
from typing import Any

from services.errors import InvalidArgument
from services.loadtest.result import label

_FIGURES = ("ok_per_s", "p50_ms", "p99_ms", "error_rate")


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Per load that both results have: both figures, and the second's over the first's, None where that has no value.

    `differences` names what else is not equal (model, protocol, rows): the ratio then compares more than two runs.
    Raises InvalidArgument where no load is common.
    """
    ours, theirs = (_by_load(result) for result in (first, second))
    common = [name for name in ours if name in theirs]
    if not common:
        raise InvalidArgument(f"Expected a load in both results. Received: {', '.join(ours)}; and {', '.join(theirs)}.")
    rows = []
    for name in common:
        figures = {}
        for figure in _FIGURES:
            before, after = _figure(ours[name], figure), _figure(theirs[name], figure)
            ratio = round(after / before, 4) if before and after is not None else None
            figures[figure] = {"first": before, "second": after, "ratio": ratio}
        rows.append({"load": name, **figures})
    keys = ("protocol", "model", "version", "rows_per_request")
    differences = [
        f"{key}: {first['target'][key]} and {second['target'][key]}"
        for key in keys
        if first["target"][key] != second["target"][key]
    ]
    return {"loads": rows, "differences": differences}


def _by_load(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {label(step): step for step in result["steps"]}


def _figure(step: Mapping[str, Any], name: str) -> float | None:
    value = step["latency_ms"][name.removesuffix("_ms")] if name.endswith("_ms") else step[name]
    return None if value is None else float(value)
