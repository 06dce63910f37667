"""What the tables say of each version, in the words of Triton's statistics extension.

    for version in statistics(tables, {"regressor": [1, 2]}):
        version.success.count, version.queue.ns, version.batch_runs[8].ns

Only requests for an inference are counted, whatever their protocol. What each figure means here:

- `inference_count` and `execution_count` are the rows and the batches that ran;
- `success` and `fail` are requests, and the time from their arrival to their answer;
- `compute_input` and `compute_output` are decoding and encoding of the protocol's message, `queue` and `compute_infer` a
  request's wait for its batch and the run of that batch;
- of a request that fails, no version is known: it counts for the highest one, which is what answers by default.

Source: `docs/protocol/extension_statistics.md` of triton-inference-server/server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, time

from services import errors
from services.telemetry.histogram import Histogram
from services.telemetry.tables import Tables
from services.telemetry.triton_page import is_inference


@dataclass(slots=True)
class Total:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    @property
    def ns(self) -> int:
        return round(self.seconds * 1e9)

    def add(self, histogram: Histogram) -> None:
        self.count += histogram.count
        self.seconds += histogram.total


@dataclass(slots=True)
class VersionStatistics:
    """See the module. `last_inference_ms` is Unix time, 0 where there was none; `batch_runs` are the runs by their rows."""

    model: str
    version: int
    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    batch_runs: dict[int, Total] = field(default_factory=dict)


def statistics(tables: Tables, versions: Mapping[str, Sequence[int]]) -> list[VersionStatistics]:
    """Of every one of `versions`, by model, what was counted: in that order, zeros where nothing was."""
    found = {
        (model, str(version)): VersionStatistics(model, version)
        for model, numbers in versions.items()
        for version in numbers
    }
    highest = {model: str(max(numbers)) for model, numbers in versions.items() if numbers}
    _count_requests(tables, found, highest)
    _count_runs(tables, found)
    return list(found.values())


def _count_requests(
    tables: Tables, found: Mapping[tuple[str, str], VersionStatistics], highest: Mapping[str, str]
) -> None:
    unix_offset = time() - perf_counter()
    for key, series in tables.requests.items():
        one = found.get((key.model, key.version or highest.get(key.model, "")))
        if one is None or not is_inference(key):
            continue
        series.settle()
        one.last_inference_ms = max(one.last_inference_ms, round((series.last_ended_at + unix_offset) * 1e3))
        if key.code != errors.OK:
            one.fail.add(series.seconds)
            continue
        one.success.add(series.seconds)
        phases = (one.compute_input, one.queue, one.compute_infer, one.compute_output)
        for total, histogram in zip(phases, series.steps, strict=True):
            total.add(histogram)


def _count_runs(tables: Tables, found: Mapping[tuple[str, str], VersionStatistics]) -> None:
    for key, batch in tables.batches.items():
        one = found.get((key.model, key.version))
        if one is None:
            continue
        rows = batch.runs.rows
        one.inference_count += round(rows.total)
        one.execution_count += rows.count
        for size, (count, seconds) in sorted(batch.runs.by_rows.items()):
            total = one.batch_runs.setdefault(size, Total())
            total.count += count
            total.seconds += seconds
