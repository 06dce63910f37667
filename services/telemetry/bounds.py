"""Upper bounds of the histograms: our own, and those of the servers whose names are exposed beside ours.

TensorFlow Serving's are exponential (`tensorflow_serving/servables/tensorflow/util.cc`: 10 us times 1.8, 33 of them;
`batching/batching_session.cc`: 100 us times 1.2, 52 of them; 1 times 2, 14 of them). A histogram that is asked for both
has the union of the two, and each exposition shows its own part.
"""

from typing import Final


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` bounds, each `factor` times the one before; rounded to what a double keeps through a change of unit."""
    return tuple(float(f"{first * factor**i:.12g}") for i in range(count))


_MANTISSAS: Final = (1.0, 2.5, 5.0)

SECONDS: Final = (*(float(f"{m}e{e}") for e in range(-5, 1) for m in _MANTISSAS), 10.0)
"""10 us to 10 s."""

ROWS: Final = exponential(1, 2, 14)
"""1 to 8192; TensorFlow Serving's bounds are the same."""

TFS_LATENCY_S: Final = exponential(10e-6, 1.8, 33)
TFS_QUEUING_S: Final = exponential(100e-6, 1.2, 52)

LATENCY_UNION: Final = tuple(sorted({*SECONDS, *TFS_LATENCY_S}))
QUEUING_UNION: Final = tuple(sorted({*SECONDS, *TFS_QUEUING_S}))
