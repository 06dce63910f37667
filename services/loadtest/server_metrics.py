"""The server's own figures over a step: the difference of two scrapes of its Prometheus metrics.

Every histogram named `cornet_<phase>_seconds` is a phase; those a server does not have are left out, and so are other
models' series. A server without our metrics has no figures here, which is no error.
"""

from collections import defaultdict
from collections.abc import Mapping
from math import inf
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_PREFIX, _SUFFIX = "cornet_", "_seconds"
_ROWS = "cornet_batch_rows"

Buckets = dict[float, float]


class Scrape:
    """Histograms by name, the series of one model added up: cumulative counts by upper bound, sum and count."""

    def __init__(self, text: str, model: str) -> None:
        self.buckets: dict[str, Buckets] = defaultdict(lambda: defaultdict(float))
        self.sums: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            if family.type != "histogram" or not (_is_phase(family.name) or family.name == _ROWS):
                continue
            for sample in family.samples:
                if sample.labels.get("model", model) != model:
                    continue
                if sample.name.endswith("_bucket"):
                    self.buckets[family.name][float(sample.labels["le"])] += sample.value
                elif sample.name.endswith("_sum"):
                    self.sums[family.name] += sample.value


def difference(before: Scrape, after: Scrape) -> dict[str, Any] | None:
    """Per phase the count, mean and percentiles in milliseconds; batches and rows per batch. None where nothing counted."""
    phases: dict[str, Any] = {}
    batches: dict[str, Any] = {}
    for name in sorted(after.buckets):
        earlier = before.buckets.get(name, {})
        counts = {bound: value - earlier.get(bound, 0.0) for bound, value in after.buckets[name].items()}
        total = after.sums[name] - before.sums.get(name, 0.0)
        count = counts.get(inf, 0.0)
        if count <= 0 or min(counts.values()) < 0:  # none, or another process's: the server was started anew
            continue
        if name == _ROWS:
            batches = {"batches": int(count), "rows_per_batch": round(total / count, 3)}
            continue
        phases[name.removeprefix(_PREFIX).removesuffix(_SUFFIX)] = {
            "count": int(count),
            "mean_ms": round(total / count * 1e3, 4),
            "p50_ms": round(quantile(counts, 0.5) * 1e3, 4),
            "p99_ms": round(quantile(counts, 0.99) * 1e3, 4),
        }
    return {"phases": phases, **batches} if phases else None


def quantile(cumulative: Mapping[float, float], share: float) -> float:
    """Prometheus's histogram_quantile: linear inside the bucket; the last finite bound where the value is beyond it."""
    bounds = sorted(cumulative)
    rank = share * cumulative[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        reached = cumulative[bound]
        if reached >= rank and reached > below:
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (reached - below)
        below, lower = reached, bound if bound != inf else lower
    return lower


def _is_phase(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)
