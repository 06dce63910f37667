"""Limits on a step, and whether it kept them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thresholds:
    """None is no limit. `max_error_rate` is a share of the requests, 0.01 being one in a hundred; `min_rps` counts good
    answers per second.
    """

    max_p99_ms: float | None = None
    max_error_rate: float | None = None
    min_rps: float | None = None

    def broken(self, step: Mapping[str, Any]) -> list[str]:
        """What the step broke, one sentence each. A step without a good answer is broken whatever the limits."""
        if not step["requests"]:
            return ["no request was answered: the step says nothing"]
        problems = []
        p99 = step["latency_ms"]["p99"]
        if p99 is None:
            problems.append(f"no good answer to {step['requests']} request{'s' if step['requests'] > 1 else ''}")
        elif self.max_p99_ms is not None and p99 > self.max_p99_ms:
            problems.append(f"p99 is {p99:.2f} ms, above {self.max_p99_ms:g} ms")
        if self.max_error_rate is not None and step["error_rate"] > self.max_error_rate:
            problems.append(f"error rate is {step['error_rate']:.2%}, above {self.max_error_rate:.2%}")
        if self.min_rps is not None and step["ok_per_s"] < self.min_rps:
            problems.append(f"{step['ok_per_s']:.1f} good answers/s, below {self.min_rps:g}")
        return problems
