"""How long a batch of a given size takes, learnt from the batches that ran."""

from collections.abc import Mapping

import numpy as np

_WEIGHT = 0.2  # of the newest measurement
_LARGEST_STEP = 2.0  # times the estimate: what an interrupted run counts for at most, as it says nothing of the model
_UNMEASURED = float("inf")


class CostTable:
    """Seconds per run, by the power of two that the number of input elements falls under.

    Elements rather than rows, so that a model with a variable axis (a long text) is judged by what it really gets. A size
    never seen is taken to cost as much as the next larger one that was, or, past the largest, twice as much per doubling;
    with no measurement at all it is infinite.
    """

    __slots__ = ("_buckets", "_estimates")

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self._estimates: dict[int, float] = {}

    def observe(self, elements: int, seconds: float) -> None:
        bucket = elements.bit_length()
        before = self._buckets.get(bucket)
        if before is not None:
            seconds = before + _WEIGHT * (min(seconds, _LARGEST_STEP * before) - before)
        self._buckets[bucket] = seconds
        self._estimates.clear()

    def estimate(self, elements: int) -> float:
        """Seconds a run over so many input elements is expected to take."""
        bucket = elements.bit_length()
        known = self._buckets.get(bucket)
        if known is not None:
            return known
        estimate = self._estimates.get(bucket)
        if estimate is None:
            estimate = self._estimates[bucket] = self._extrapolate(bucket)
        return estimate

    @property
    def largest(self) -> float:
        """Seconds of the costliest size measured; infinite where none was."""
        return max(self._buckets.values(), default=_UNMEASURED)

    def _extrapolate(self, bucket: int) -> float:
        larger = [b for b in self._buckets if b > bucket]
        if larger:
            return self._buckets[min(larger)]
        if not self._buckets:
            return _UNMEASURED
        largest = max(self._buckets)
        return float(self._buckets[largest] * 2.0 ** (bucket - largest))


def elements_of(inputs: Mapping[str, np.ndarray]) -> int:
    """The number of elements in all inputs of a run."""
    return sum(array.size for array in inputs.values())
