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

_KEPT = 1024
"""Values kept before they are counted: that takes some 50 us, once."""


class Histogram:
    """Counts of observations at most as large as each bound, and their sum. `bounds` ascend."""

    __slots__ = ("_counts", "_kept", "_repeated", "_total", "bounds")

    def __init__(self, bounds: Sequence[float] | np.ndarray) -> None:
        self.bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._kept: list[float] = []
        self._repeated: list[float] = []

    def observe(self, value: float, times: int = 1) -> None:
        """Observe a value, so many times."""
        if times == 1:
            kept = self._kept
            kept.append(value)
        else:
            kept = self._repeated
            kept += (value, times)
        if len(kept) >= _KEPT:
            self._settle()

    def extend(self, values: Sequence[float]) -> None:
        """Observe every one of a few values."""
        kept = self._kept
        kept += values
        if len(kept) >= _KEPT:
            self._settle()

    def add(self, values: np.ndarray, times: np.ndarray | None = None) -> None:
        """Observe every one of `values` (f64 [N]), each as many `times` (f64 [N]) as that says."""
        if times is None:
            # Sorting them and looking for the bounds is half the work of looking for each among the bounds.
            reached = np.sort(values).searchsorted(self.bounds, "right")
            self._counts[:-1] += reached
            self._counts[1:] -= reached
            self._counts[-1] += len(values)
            self._total += float(values.sum())
        else:
            places = self.bounds.searchsorted(values)
            self._counts += np.bincount(places, times, len(self._counts)).astype(np.int64)
            self._total += float(values @ times)

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

    def dump(self) -> tuple[list[int], float]:
        """What `absorb` takes: observations by bound, the last number those beyond all of them; and their sum."""
        self._settle()
        return self._counts.tolist(), self._total

    def absorb(self, counts: Sequence[int], total: float) -> None:
        """Take in the dump of a histogram of the same bounds. Raises ValueError where there are not as many."""
        if len(counts) != len(self._counts):
            raise ValueError(f"Expected {len(self._counts)} counts. Received: {len(counts)}.")
        self._counts += np.array(counts, np.int64)
        self._total += total

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
            values = _columns(self._kept, 1)[0]
            self._kept.clear()
            self.add(values)
        if self._repeated:
            values, times = _columns(self._repeated, 2)
            self._repeated.clear()
            self.add(values, times)


class RequestSeries:
    """Histograms of one kind of request: its four phases, and the whole of it; and the bytes of its bodies.

    Who counts a request extends `kept` by `WIDTH` numbers: when it arrived, the seconds its decoding took, when it had its
    answer of the engine and had that encoded (times in seconds on one clock), the engine's `queue_us` and `compute_us`, bytes
    received, bytes sent; NAN in place of what a request without an inference has not. It then calls `settle` once there are
    `FULL` numbers; `settle` comes also before anything else of this is read. `last_ended_at` is when the last answer was
    encoded, 0 before the first.

    Requests that were answered together are counted together, by `count_run`: most of these numbers are then the same for
    all of them, or all of them for those that arrived together, too.
    """

    WIDTH = 8
    FULL = 1024 * WIDTH

    __slots__ = (
        "_arrived",
        "_runs",
        "_waited",
        "kept",
        "last_ended_at",
        "received_bytes",
        "seconds",
        "sent_bytes",
        "steps",
    )

    def __init__(self, bounds: Sequence[float]) -> None:
        self.kept: list[float] = []
        self._arrived: list[float] = []
        self._waited: list[float] = []
        self._runs: list[float] = []
        self.seconds = Histogram(bounds)
        self.steps = tuple(Histogram(bounds) for _ in range(4))
        self.received_bytes = 0
        self.sent_bytes = 0
        self.last_ended_at = 0.0

    def count_run(
        self,
        requests: int,
        arrived: Sequence[float],
        waited_s: Sequence[float],
        dispatched: float,
        inferred: float,
        ended: float,
        compute_s: float,
    ) -> None:
        """Count the requests of one run: when each arrived, and how long it then waited, decoded, for the run, or one value
        of each for all of them; and when they went into the run, came out of it and were encoded. Seconds, on one clock.
        """
        self._arrived += arrived
        self._waited += waited_s
        self._runs += (requests, len(arrived), dispatched, inferred, ended, compute_s)
        if len(self._arrived) >= _KEPT:
            self._settle_runs()

    def _settle_runs(self) -> None:
        """Count what `count_run` kept: some 100 us where it is full."""
        requests, values, dispatched, inferred, ended, compute_s = _columns(self._runs, 6)
        arrived, waited_s = _columns(self._arrived, 1)[0], _columns(self._waited, 1)[0]
        self._arrived.clear()
        self._waited.clear()
        self._runs.clear()
        counts = values.astype(np.intp)
        times = None if len(arrived) == requests.sum() else (requests / values).repeat(counts)
        self.seconds.add(ended.repeat(counts) - arrived, times)
        self.last_ended_at = max(self.last_ended_at, float(ended.max()))
        decode, queue, compute, encode = self.steps
        decode.add(dispatched.repeat(counts) - waited_s - arrived, times)
        queue.add(waited_s, times)
        compute.add(compute_s, requests)
        encode.add(ended - inferred, requests)

    def settle(self) -> None:
        """Count what is kept: some 300 us where it is full."""
        if self._arrived:
            self._settle_runs()
        if not self.kept:
            return
        arrived, decode_s, inferred, ended, queue_us, compute_us, received, sent = _columns(self.kept, self.WIDTH)
        self.kept.clear()
        self.seconds.add(ended - arrived)
        self.last_ended_at = max(self.last_ended_at, float(ended.max()))
        self.received_bytes += int(received.sum())
        self.sent_bytes += int(sent.sum())
        phases = np.stack((decode_s, queue_us * 1e-6, compute_us * 1e-6, ended - inferred))
        known = ~np.isnan(queue_us)
        if not known.all():
            phases = phases[:, known]
        for histogram, values in zip(self.steps, phases, strict=True):
            histogram.add(values)


class RunSeries:
    """Runs of one signature's batches: seconds, rows, and rows with padding.

    Who counts a run extends `kept` by `WIDTH` numbers, rows, padded rows and seconds, and calls `settle` once there are
    `FULL`. `by_rows` are the runs of each exact number of rows, their count and seconds: as many entries as the model's
    largest batch has rows, at most.
    """

    WIDTH = 3
    FULL = 1024 * WIDTH

    __slots__ = ("_by_rows", "_padded_rows", "_rows", "_seconds", "kept")

    def __init__(self, seconds: Sequence[float], rows: Sequence[float]) -> None:
        """Bounds of the two kinds of histogram."""
        self.kept: list[float] = []
        self._rows = Histogram(rows)
        self._padded_rows = Histogram(rows)
        self._seconds = Histogram(seconds)
        self._by_rows: dict[int, tuple[int, float]] = {}

    @property
    def by_rows(self) -> dict[int, tuple[int, float]]:
        self.settle()
        return self._by_rows

    @property
    def seconds(self) -> Histogram:
        self.settle()
        return self._seconds

    @property
    def rows(self) -> Histogram:
        self.settle()
        return self._rows

    @property
    def padded_rows(self) -> Histogram:
        self.settle()
        return self._padded_rows

    def settle(self) -> None:
        """Count what is kept."""
        if self.kept:
            rows, padded_rows, seconds = _columns(self.kept, self.WIDTH)
            self.kept.clear()
            self._rows.add(rows)
            self._padded_rows.add(padded_rows)
            self._seconds.add(seconds)
            sizes = rows.astype(np.intp)
            counts, spent = np.bincount(sizes), np.bincount(sizes, seconds)
            for size in counts.nonzero()[0].tolist():
                count, total = self._by_rows.get(size, (0, 0.0))
                self._by_rows[size] = (count + int(counts[size]), total + float(spent[size]))


def _columns(kept: Sequence[float], width: int) -> np.ndarray:
    """The kept rows as columns, f64 [width, N]. `np.array` would take twice as long for a list."""
    return np.fromiter(kept, np.float64, len(kept)).reshape(-1, width).T


def _text(bound: float) -> str:
    return repr(float(f"{bound:.12g}"))
