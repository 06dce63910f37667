"""What a generator measured, and how the outputs of wrk, h2load and perf_analyzer are read."""

import csv
import io
import json
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

_DATA = re.compile(r"traffic: .*\((\d+)\) total, .*\((\d+)\) headers .*?, \S+ \((\d+)\) data")

_PERF_ANALYZER_MORE_S = 0.5
"""How much longer than its windows perf_analyzer sends requests, as servers' CPU time shows."""


@dataclass(frozen=True)
class Figures:
    """One measurement. Times are the client's, in milliseconds; `errors` counts answers that were none.

    `answered` counts the requests before and behind the measured time as well, which the server worked for too. `cpu_s` is
    what the measurement itself took of a CPU, where it ran without a server.
    """

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    answered: int = 0
    cpu_s: float = 0.0

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order: the smallest that at least `share` of them do not exceed."""
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def read_json(output: str) -> Figures:
    """The line that wrk's script and our own clients end with: `FIGURES {...}`. Raises ValueError where there
    is none, or nothing was answered."""
    for line in reversed(output.splitlines()):
        if line.startswith("FIGURES "):
            figures = Figures(**json.loads(line.removeprefix("FIGURES ")))
            if figures.requests:
                return figures
    raise ValueError(f"Expected a line of figures. Received: {output[-400:]!r}")


def read_h2load(output: str, log: str, answer_bytes: int, seconds: float | None = None) -> Figures:
    """From h2load's report and its log (start in microseconds, status, microseconds taken; one line per request).

    Without `seconds` the time is that from the first start to the last end. gRPC's errors have the status 200 as well, but
    carry no message: what lacks of `answer_bytes` per request, the prefix of five bytes included, was none. Raises
    ValueError where nothing was answered.
    """
    starts, times, failed = [], [], 0
    for line in log.splitlines():
        start, status, taken = line.split("\t")
        starts.append(int(start))
        times.append(int(taken))
        failed += status != "200"
    traffic = _DATA.search(output)
    if not times or traffic is None:
        raise ValueError(f"Expected answers. Received: {output[-400:]!r}")
    if seconds is None:
        seconds = (max(map(operator.add, starts, times)) - min(starts)) / 1e6
    times.sort()
    missing = max(0, len(times) - failed - int(traffic[3]) // answer_bytes)
    p50_ms, p99_ms = (percentile(times, share) / 1000 for share in (0.5, 0.99))
    return Figures(len(times), seconds, failed + missing, p50_ms, p99_ms)


def read_perf_analyzer(report: str, seconds: float) -> Figures:
    """From perf_analyzer's CSV. It stops at the first error, so that what it reports has none."""
    row = next(csv.DictReader(io.StringIO(report)))
    rate = float(row["Inferences/Second"])
    p50, p99 = (float(row[f"{name} latency"]) / 1000 for name in ("p50", "p99"))
    return Figures(round(rate * seconds), seconds, 0, p50, p99, round(rate * (seconds + _PERF_ANALYZER_MORE_S)))
