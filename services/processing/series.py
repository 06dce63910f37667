"""Windows of a time series to one float tensor in raw units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing.base import Processor, Values
from services.processing.values import is_missing, number, outside_float32, shown


@dataclass(frozen=True)
class SeriesProcessor(Processor):
    """Encodes windows of exactly `window` steps, oldest first, as `window` f32 `[B, T, F]`.

    A record is one window, in any of these forms: `[T, F]` numbers; `[T]` numbers where there is one column; a list of T
    objects by column name; one object of column name to T numbers. A forecast of a window with holes would be a guess, so
    missing values and infinities are refused.

        processor = SeriesProcessor.fit(["temperature"], window=3)
        processor.encode([[20.1, 19.8, 20.4]])              # {"window": [[[20.1], [19.8], [20.4]]]}
    """

    kind: ClassVar[str] = "series"

    columns: tuple[str, ...]
    window: int

    @classmethod
    def fit(cls, columns: Sequence[str], window: int) -> Self:
        """Raises DataError for no columns, a repeated one, or a window shorter than a step."""
        names = tuple(columns)
        if not names or len(set(names)) != len(names) or window < 1:
            raise DataError(
                "Expected different column names and a window of at least 1 step. "
                f"Received: columns={shown(list(names))}, window={window}."
            )
        return cls(names, window)

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns

    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """Raises DataError naming the record, the step and the column."""
        encoded = np.empty((len(records), self.window, len(self.columns)), np.float32)
        for index, record in enumerate(records):
            encoded[index] = self._window(f"record {index}", record)
        return {"window": encoded}

    def save(self, directory: Path) -> ProcessorSpec:  # noqa: ARG002  # the options say it all: there is no asset to write
        return ProcessorSpec(self.kind, {"columns": list(self.columns), "window": self.window})

    @classmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:  # noqa: ARG003  # the options say it all
        columns, window = spec.options.get("columns"), spec.options.get("window")
        if (
            set(spec.options) != {"columns", "window"}
            or not isinstance(columns, list)
            or not all(isinstance(name, str) for name in columns)
            or type(window) is not int
        ):
            raise ManifestError(
                f"manifest.processor.options: expected columns and window. Received: {shown(dict(spec.options))}."
            )
        try:
            return cls.fit(columns, window)
        except DataError as error:
            raise ManifestError(f"manifest.processor.options: {error}") from None

    def _window(self, where: str, record: Any) -> np.ndarray:
        array = self._plain(record)
        if array is not None:
            return self._array(where, array)
        if isinstance(record, Mapping):
            self._check_names(where, record)
            columns = [self._steps(f"{where}, column {name!r}", record[name]) for name in self.columns]
            return np.array(
                [
                    [_cell(where, step, name, value) for step, value in enumerate(column)]
                    for name, column in zip(self.columns, columns, strict=True)
                ]
            ).T
        steps = self._steps(where, record)
        return np.array([self._step(where, index, step) for index, step in enumerate(steps)])

    def _plain(self, record: Any) -> np.ndarray | None:
        """A window of nothing but numbers, in the right shape, at once; None for every other form of it."""
        if isinstance(record, np.ndarray):
            return record if record.dtype.kind in "biuf" else None
        if not isinstance(record, list):
            return None
        flat = len(self.columns) == 1 and not any(isinstance(step, list) for step in record[:1])
        steps = record if flat else [value for step in record if isinstance(step, list) for value in step]
        if len(steps) != self.window * len(self.columns) or not set(map(type, steps)) <= {int, float}:
            return None
        try:
            array = np.array(record, np.float64)
        except (OverflowError, ValueError):  # too large, or steps of unlike length
            return None
        return array if len(array) == self.window else None

    def _array(self, where: str, record: np.ndarray) -> np.ndarray:
        shape = (self.window, len(self.columns))
        array = record[:, np.newaxis] if record.ndim == 1 and shape[1] == 1 else record
        if array.shape != shape:
            raise DataError(f"{where}: expected an array of shape {list(shape)}. Received: {list(record.shape)}.")
        floats = array.astype(np.float64, copy=False)
        wrong = outside_float32(floats) | np.isnan(floats)
        if wrong.any():
            step, column = np.argwhere(wrong)[0]
            _cell(where, int(step), self.columns[column], floats[step, column])
        return floats

    def _steps(self, where: str, record: Any) -> Values:
        if not isinstance(record, list | tuple | np.ndarray):
            raise DataError(
                f"{where}: expected a list of {self.window} steps, oldest first. Received: {shown(record)}."
            )
        if len(record) != self.window:
            raise DataError(f"{where}: expected {self.window} steps, oldest first. Received: {len(record)}.")
        return record

    def _step(self, where: str, index: int, step: Any) -> list[float]:
        if isinstance(step, Mapping):
            self._check_names(f"{where}, step {index}", step)
            step = [step[name] for name in self.columns]
        elif not isinstance(step, list | tuple | np.ndarray) and len(self.columns) == 1:
            step = [step]
        if not isinstance(step, list | tuple | np.ndarray) or len(step) != len(self.columns):
            raise DataError(
                f"{where}, step {index}: expected {len(self.columns)} values ({', '.join(self.columns)}). "
                f"Received: {shown(step)}."
            )
        return [_cell(where, index, name, value) for name, value in zip(self.columns, step, strict=True)]

    def _check_names(self, where: str, record: Mapping[Any, Any]) -> None:
        if set(record) != set(self.columns):
            raise DataError(
                f"{where}: expected the columns {', '.join(self.columns)}. Received: {shown(list(record))}."
            )


def _cell(where: str, step: int, column: str, value: Any) -> float:
    try:
        if is_missing(value):
            raise ValueError("expected a number")
        return number(value)
    except ValueError as error:
        raise DataError(f"{where}, step {step}, column {column!r}: {error}. Received: {shown(value)}.") from None
