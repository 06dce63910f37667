"""Records of a model without a processor: its input tensors, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.errors import DataError
from services.processing.values import shown
from services.tensors import TensorSpec


class TensorEncoder:
    """Encodes records, objects of input name to one row's value (a number, text or nested list), as the model's inputs.

        TensorEncoder(signature.inputs).encode([{"x": [1.0, 2.0]}])      # {"x": float32 [1, 2]}

    Safe casts alone: a fraction is no integer, a number no text. NaN and infinities are refused.
    """

    kind = "tensors"

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._inputs = tuple(inputs)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self._inputs)

    def encode(self, records: Sequence[Any]) -> dict[str, np.ndarray]:
        """Raises DataError naming the record and the input."""
        rows = [self._row(f"record {index}", record) for index, record in enumerate(records)]
        arrays = {}
        for spec in self._inputs:
            values = [row[spec.name] for row in rows]
            for index, value in enumerate(values):
                if value.shape != values[0].shape:
                    raise DataError(f"record {index}: {spec.name}: expected {list(values[0].shape)} as before it.")
            arrays[spec.name] = np.stack(values)
        return arrays

    def _row(self, where: str, record: Any) -> dict[str, np.ndarray]:
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: expected an object of {', '.join(self.names)}. Received: {shown(record)}.")
        missing = [name for name in self.names if record.get(name) is None]
        if missing:
            raise DataError(f"{where}: expected {', '.join(self.names)}. Received: none of {', '.join(missing)}.")
        return {spec.name: _value(f"{where}: {spec.name}", spec, record[spec.name]) for spec in self._inputs}


def _value(where: str, spec: TensorSpec, value: Any) -> np.ndarray:
    try:
        array = _strings(value) if spec.dtype.is_string else _numbers(spec, value)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{where}: expected {spec}. Received: {shown(value)}.") from None
    if not spec.accepts((1, *array.shape)):
        raise DataError(f"{where}: expected a row of {spec}. Received: shape {list(array.shape)}.")
    return array


def _strings(value: Any) -> np.ndarray:
    plain = np.array(value, dtype=object)
    flat = np.empty(plain.size, object)
    for index, text in enumerate(plain.flat):
        if not isinstance(text, str | bytes):
            raise TypeError(text)
        flat[index] = text.encode("utf-8") if isinstance(text, str) else text
    return flat.reshape(plain.shape)


def _numbers(spec: TensorSpec, value: Any) -> np.ndarray:
    plain = np.array(value)
    if plain.dtype.kind not in "biuf":
        raise TypeError(value)
    array = plain.astype(spec.dtype.numpy)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(value)
    elif not np.array_equal(array, plain):
        raise ValueError(value)
    return array
