"""When the requests of an open loop are due, in seconds from its start."""

from collections.abc import Iterator

import numpy as np

_BLOCK = 1024


def constant(rate_per_s: float) -> Iterator[float]:
    """Evenly spaced, the first at 0. Computed from the count, so that no rounding adds up."""
    count = 0
    while True:
        yield count / rate_per_s
        count += 1


def poisson(rate_per_s: float, rng: np.random.Generator) -> Iterator[float]:
    """A Poisson process: independent, exponentially distributed gaps of mean `1 / rate_per_s`."""
    now = 0.0
    while True:
        for gap in rng.exponential(1 / rate_per_s, _BLOCK).tolist():
            now += gap
            yield now
