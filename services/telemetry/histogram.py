"""Histograms that are cheap to feed: values are kept as they come and counted hundreds at a time, or when read.

    histogram = Histogram((0.001, 0.01, 0.1))
    histogram.observe(0.004)
    histogram.buckets()  # [("0.001", 0.0), ("0.01", 1.0), ("0.1", 1.0), ("+Inf", 1.0)]

Counting one value by itself costs 300 ns in Python; keeping it costs a quarter of that, and numpy's share per value is
smaller still.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

_KEPT = 512
"""Values kept before they are counted: that takes some 50 us, once."""


class Histogram:
    """Counts of observations at most as large as each bound, and their sum. `bounds` ascend."""

    __slots__ = ("_counts", "_kept", "_total", "bounds")

    def __init__(self, bounds: Sequence[float] | np.ndarray) -> None:
        self.bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._kept: list[float] = []

    def observe(self, value: float) -> None:
        kept = self._kept
        kept.append(value)
        if len(kept) >= _KEPT:
            self._settle()

    def add(self, values: np.ndarray) -> None:
        """Observe every one of `values` (f64 [N])."""
        places = self.bounds.searchsorted(values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._total += float(values.sum())

    @classmethod
    def merged(cls, histograms: Sequence["Histogram"]) -> Self:
        """The observations of all of them, which have the same bounds; there is at least one."""
        merged = cls(histograms[0].bounds)
        for histogram in histograms:
            merged.merge(histogram)
        return merged

    def merge(self, other: "Histogram") -> None:
        """Take in what another one of the same bounds has observed."""
        self._total += other.total
        self._counts += other._counts  # noqa: SLF001  # one class

    @property
    def total(self) -> float:
        """The sum of all observations."""
        self._settle()
        return self._total

    @property
    def count(self) -> int:
        self._settle()
        return int(self._counts.sum())

    def buckets(self, bounds: Sequence[float] = (), scale: float = 1.0) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format wants them.

        `bounds`, a part of the histogram's own, leaves the others out: one histogram serves several expositions exactly.
        `scale` multiplies the bounds as they are written, for another unit.
        """
        self._settle()
        reached = self._counts.cumsum()
        chosen = self.bounds if not len(bounds) else np.array(bounds, np.float64)
        rows = [
            (_text(bound * scale), float(reached[place]))
            for bound, place in zip(chosen.tolist(), self.bounds.searchsorted(chosen).tolist(), strict=True)
        ]
        return [*rows, ("+Inf", float(reached[-1]))]

    def _settle(self) -> None:
        if self._kept:
            values = np.array(self._kept, np.float64)
            self._kept.clear()
            self.add(values)


class Phases:
    """Histograms of one kind of request: its phases, and the whole of it.

    `observe` takes one answered inference; `seconds.observe` alone what has no phases: errors, metadata, health.
    """

    __slots__ = ("_kept", "seconds", "steps")

    def __init__(self, seconds: Sequence[float], steps: Sequence[Sequence[float]]) -> None:
        """`seconds`: bounds of the whole; `steps`: those of each phase, in the order `observe` takes them."""
        self.seconds = Histogram(seconds)
        self.steps = tuple(Histogram(bounds) for bounds in steps)
        self._kept: list[float] = []

    def observe(self, *values: float) -> None:
        """Seconds of each phase in order, then of the whole."""
        kept = self._kept
        kept += values
        if len(kept) >= _KEPT:
            self.settle()

    def settle(self) -> None:
        """Count what is kept; to be called before the histograms are read."""
        if self._kept:
            values = np.array(self._kept, np.float64).reshape(-1, len(self.steps) + 1)
            self._kept.clear()
            for column, histogram in enumerate((*self.steps, self.seconds)):
                histogram.add(values[:, column])


def _text(bound: float) -> str:
    return repr(float(f"{bound:.12g}"))
