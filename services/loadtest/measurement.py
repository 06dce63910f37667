"""What happened in one step: latencies, errors by code, and both second by second."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from services.loadtest.histogram import Histogram
from services.loadtest.requests import OK, Answer

_MAX_TEXT = 200


@dataclass(slots=True)
class _Second:
    latency: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)


class Recorder:
    """Counts the answers of one step. `latency` holds good answers only: a refusal is quick, and no success.

    `lateness` is how long after its intended time a request of an open loop was sent: the client's own delay, which the
    latency includes. `unfinished` are requests that were cut when the step was interrupted: they are no errors, and in no
    other count. Times are seconds on the clock `started_s` is on.
    """

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.ended_s = started_s
        self.requests = 0
        self.unfinished = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.lateness = Histogram()
        self._seconds: dict[int, _Second] = {}

    def record(self, begun_s: float, ended_s: float, answer: Answer) -> None:
        self.requests += 1
        self.ended_s = max(self.ended_s, ended_s)
        index = int(ended_s - self.started_s)
        second = self._seconds.get(index)
        if second is None:
            second = self._seconds[index] = _Second()
        if answer.code == OK:
            second.latency.record(ended_s - begun_s)
            return
        self.errors[answer.code] += 1
        second.errors[answer.code] += 1
        if answer.code not in self.examples:
            self.examples[answer.code] = answer.body.decode(errors="replace")[:_MAX_TEXT]

    def close(self, now_s: float) -> None:
        """The step is over: what it measured, it measured until `now_s`."""
        self.ended_s = max(self.ended_s, now_s)

    @property
    def latency(self) -> Histogram:
        """The good answers of all seconds."""
        whole = Histogram()
        for second in self._seconds.values():
            whole.add(second.latency)
        return whole

    @property
    def seconds(self) -> float:
        """From the start to the end of the step, or to the last answer where that came later."""
        return self.ended_s - self.started_s

    def timeline(self) -> list[dict[str, Any]]:
        """One entry per second, empty ones included: good answers, errors by code, and percentiles in milliseconds."""
        entries = []
        for index in range(max(self._seconds, default=-1) + 1):
            second = self._seconds.get(index, _Second())
            summary = second.latency.summary_ms()
            entries.append(
                {
                    "second": index,
                    "ok": second.latency.count,
                    "errors": dict(second.errors),
                    "p50_ms": summary["p50"],
                    "p99_ms": summary["p99"],
                }
            )
        return entries
