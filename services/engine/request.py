"""What goes into the engine and what comes out of it: numpy, whatever the protocol."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from services.errors import CornetError
from services.tensors import DEFAULT_SIGNATURE


@dataclass(slots=True)
class InferenceRequest:
    """One prediction call.

    `inputs` maps tensor name to array. The arrays may be read-only views of the message they came in; the engine never
    writes to them. `version` wins over `label`; with neither, the latest available version answers. `outputs` empty
    means all. `deadline` is a point on the engine's clock (`time.monotonic()`, seconds) after which the rows need not be
    computed.
    """

    model: str
    inputs: dict[str, np.ndarray]
    version: int | None = None
    label: str | None = None
    signature: str = DEFAULT_SIGNATURE
    outputs: tuple[str, ...] = ()
    deadline: float | None = None


@dataclass(slots=True)
class InferenceResponse:
    """The answer: which version of which model computed it, and the arrays by output name.

    `queue_us` is the time the rows waited for their batch, `compute_us` that of the batch's run, `batch_rows` its size.
    """

    model: str
    version: int
    signature: str
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    queue_us: float = 0.0
    compute_us: float = 0.0
    batch_rows: int = 0


Outcome: TypeAlias = InferenceResponse | CornetError
"""Exactly one of these is handed to the callback of every request, once, whatever happens."""

Done: TypeAlias = Callable[[Outcome], None]
