"""A histogram of times with a bounded relative error, like HdrHistogram's: any load fits in a few kilobytes."""

from math import ceil, exp, log
from typing import Any, Self

_GROWTH = 1.02
_FIRST_S = 1e-6
_SCALE = 1 / log(_GROWTH)

RELATIVE_ERROR = _GROWTH**0.5 - 1
"""A percentile is at most this share away from the true one: half a bucket, 1 %."""


class Histogram:
    """Times in seconds, counted in buckets whose bounds grow by 2 %, from a microsecond on.

    Count, sum, least and greatest are exact.
    """

    __slots__ = ("_counts", "count", "greatest_s", "least_s", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0
        self.least_s = float("inf")
        self.greatest_s = 0.0

    def record(self, seconds: float) -> None:
        bucket = int(log(seconds / _FIRST_S) * _SCALE) if seconds > _FIRST_S else 0
        counts = self._counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.count += 1
        self.total_s += seconds
        self.least_s = min(self.least_s, seconds)
        self.greatest_s = max(self.greatest_s, seconds)

    def percentile_s(self, percent: float) -> float | None:
        """The time that `percent` of all did not exceed; None where nothing was recorded."""
        if not self.count:
            return None
        rank, seen = max(1, ceil(percent / 100 * self.count)), 0
        if rank == self.count:
            return self.greatest_s
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                middle = _FIRST_S * exp((bucket + 0.5) / _SCALE)
                return min(max(middle, self.least_s), self.greatest_s)
        return self.greatest_s

    def add(self, other: Self) -> None:
        """Count what `other` has counted as well."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.greatest_s = max(self.greatest_s, other.greatest_s)

    def summary_ms(self) -> dict[str, float | None]:
        """Mean, least, greatest and percentiles in milliseconds; None for each where nothing was recorded."""
        named = {f"p{name}": self.percentile_s(percent) for name, percent in _PERCENTILES.items()}
        mean = self.total_s / self.count if self.count else None
        least = self.least_s if self.count else None
        values = {"mean": mean, "min": least, **named, "max": self.greatest_s if self.count else None}
        return {name: None if value is None else round(value * 1e3, 4) for name, value in values.items()}

    def to_json(self) -> dict[str, Any]:
        """The buckets that counted anything: upper bounds in milliseconds, and counts."""
        buckets = sorted(self._counts)
        bounds = [round(_FIRST_S * exp((bucket + 1) / _SCALE) * 1e3, 6) for bucket in buckets]
        return {"upper_bounds_ms": bounds, "counts": [self._counts[bucket] for bucket in buckets]}


_PERCENTILES = {"50": 50.0, "90": 90.0, "95": 95.0, "99": 99.0, "999": 99.9}
