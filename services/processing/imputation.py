"""Records with missing cells to the tensors of the signature `impute`, and its answers back to whole records.

`impute` takes `values` f32 `[B, F]` and `mask` bool `[B, F]`, true where a value is known, and gives `rows` f32 `[B, F]`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.errors import FailedPrecondition
from services.processing.base import Processor, Values
from services.processing.tabular import TabularProcessor

IMPUTE = "impute"


class ImputeEncoder:
    """Encodes records as a tabular processor does, for `impute`: a missing cell is one that is not known."""

    kind = TabularProcessor.kind

    def __init__(self, processor: TabularProcessor) -> None:
        self._processor = processor
        self.names = processor.names

    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """`values` and `mask`. Raises DataError naming the record and what is wrong."""
        return with_mask(self._processor.encode(records))


def with_mask(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The signature's inputs out of encoded records, f32 `[B, F]`, in which a missing cell is NaN."""
    (features,) = inputs.values()
    known = ~np.isnan(features)
    return {"values": np.where(known, features, np.float32(0)), "mask": known}


def completed(outputs: Mapping[str, np.ndarray], processor: Processor) -> list[dict[str, Any]]:
    """One answer per row: `{"record": {...}}` by column name. Raises FailedPrecondition for a model without columns."""
    if not isinstance(processor, TabularProcessor):
        raise FailedPrecondition(f"Expected a model of tabular records. Received: one of {processor.kind}.")
    return [{"record": record} for record in processor.decode(outputs["rows"])]
