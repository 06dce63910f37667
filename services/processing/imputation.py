"""Records with missing cells to the tensors of the signature `impute`, and its answers back to whole records.

`impute` takes `values` f32 `[B, F]` and `mask` bool `[B, F]`, true where a value is known, and gives `rows` f32 `[B, F]`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.errors import FailedPrecondition
from services.processing.answers import finite, output_of
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


def columns_of(processor: Processor) -> TabularProcessor:
    """The processor, whose columns can be completed. Raises FailedPrecondition for one without columns."""
    if not isinstance(processor, TabularProcessor):
        raise FailedPrecondition(f"Expected a model of tabular records. Received: one of {processor.kind}.")
    return processor


def completed(outputs: Mapping[str, np.ndarray], processor: Processor) -> list[dict[str, Any]]:
    """One answer per row: `{"record": {...}}` by column name.

    Raises FailedPrecondition for a model without columns, or outputs that are not its rows; Internal where the model gave
    NaN or an infinity.
    """
    table = columns_of(processor)
    rows = output_of(outputs, "rows")
    if rows.ndim != 2 or rows.shape[1] != len(table.columns):
        raise FailedPrecondition(
            f"rows: expected shape [rows, {len(table.columns)}]. The model gave {list(rows.shape)}."
        )
    return [{"record": record} for record in table.decode(finite("rows", rows))]
