"""Rows of a table, as records by column name, to one float tensor in raw units."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from services.errors import DataError, ManifestError
from services.manifest import ASSETS_DIRECTORY, ProcessorSpec
from services.processing.base import Processor, Values
from services.processing.values import is_missing, number, outside_float32, shortest, shown

COLUMNS_FILE = f"{ASSETS_DIRECTORY}/columns.json"
MAX_CATEGORIES = 1000
UNSEEN = -1.0
"""The code of a category that the training data did not hold."""

_PLAIN = {int, float, bool, type(None)}


@dataclass(frozen=True, slots=True)
class Column:
    """One input column. `kind` is `numeric` or `categorical`; `categories` are the training data's texts, sorted."""

    name: str
    kind: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class TabularProcessor(Processor):
    """Encodes records as `features` f32 `[B, F]`, one feature per column, in the order of `columns`.

    A numeric cell is its number; a text that is a plain decimal number counts as one. A categorical cell is the index of
    its text in `Column.categories`, compared to the letter, and -1 for a text that training never saw; the graph turns the
    index into one-hot. A missing cell (None, NaN, an empty text) is NaN. Infinities are refused.

        processor = TabularProcessor.fit({"age": [31, None], "city": ["Ulm", "Bonn"]})
        processor.encode([{"age": 40, "city": "Ulm"}])      # {"features": [[40., 1.]]}
        processor.encode([[40, "Ulm"]])                     # the same, in column order
    """

    kind: ClassVar[str] = "tabular"

    columns: tuple[Column, ...]
    _codes: Mapping[str, Mapping[str, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        codes = {
            column.name: {text: float(code) for code, text in enumerate(column.categories)}
            for column in self.columns
            if column.kind == "categorical"
        }
        object.__setattr__(self, "_codes", codes)

    @classmethod
    def fit(cls, table: Mapping[str, Values], *, max_categories: int = MAX_CATEGORIES) -> Self:
        """Learn the columns from training data: column name to values, all of one length.

        A column of texts is categorical, one of numbers or booleans numeric. Raises DataError where a column mixes the two,
        holds nothing, or has more than `max_categories` different texts (an identifier, most likely).
        """
        if not table:
            raise DataError("Expected at least one input column. Received: none.")
        if not all(isinstance(name, str) for name in table):
            raise DataError(f"Expected column names to be texts. Received: {_listed(list(table))}.")
        _rows(table)
        return cls(tuple(_learn(name, values, max_categories) for name, values in table.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in the order of the features."""
        return tuple(column.name for column in self.columns)

    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """Records as dicts by column name, or as rows in column order. Raises DataError naming record and column."""
        names = self.names
        if isinstance(records, np.ndarray) and records.ndim == 2 and records.shape[1] == len(names):
            return self.encode_columns({name: records[:, i] for i, name in enumerate(names)})
        rows = [self._row(index, record) for index, record in enumerate(records)]
        columns = zip(*rows, strict=True) if rows else ((),) * len(names)
        return self._encode(dict(zip(names, columns, strict=True)), len(rows))

    def encode_columns(self, table: Mapping[str, Values]) -> dict[str, np.ndarray]:
        """The same for a whole table, column name to values (lists, arrays or pandas columns)."""
        _check_names("table", table.keys(), self.names)
        return self._encode(table, _rows(table))

    def _encode(self, table: Mapping[str, Values], rows: int) -> dict[str, np.ndarray]:
        features = np.empty((rows, len(self.columns)), np.float64)
        for index, column in enumerate(self.columns):
            values = table[column.name]
            codes = self._codes.get(column.name)
            features[:, index] = _numbers(column.name, values) if codes is None else _coded(column.name, values, codes)
        wrong = outside_float32(features)
        if wrong.any():
            row, index = (int(place) for place in np.argwhere(wrong)[0])
            _number(self.names[index], row, float(features[row, index]))
        return {"features": features.astype(np.float32)}

    def decode(self, features: np.ndarray) -> list[dict[str, Any]]:
        """The way back: features `[B, F]` to records by column name. NaN and the code of no category are None.

        A model computes codes: the nearest one counts.
        """
        columns = [self._cells(column, features[:, index]) for index, column in enumerate(self.columns)]
        return [dict(zip(self.names, cells, strict=True)) for cells in zip(*columns, strict=True)]

    def _cells(self, column: Column, values: np.ndarray) -> list[Any]:
        if column.kind == "numeric":
            return shortest(values)
        codes = np.rint(np.where(np.isnan(values), UNSEEN, values)).astype(np.int64)
        return [column.categories[code] if 0 <= code < len(column.categories) else None for code in codes]

    def save(self, directory: Path) -> ProcessorSpec:
        path = directory / COLUMNS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = [
            {"name": column.name, "kind": column.kind, "categories": list(column.categories)} for column in self.columns
        ]
        path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return ProcessorSpec(self.kind, files=(COLUMNS_FILE,))

    @classmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:
        if spec.files != (COLUMNS_FILE,):
            raise ManifestError(
                f"manifest.processor.files: expected {COLUMNS_FILE}. Received: {', '.join(spec.files) or 'none'}."
            )
        try:
            plain = json.loads((directory / COLUMNS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ManifestError(f"{COLUMNS_FILE}: expected a JSON file. Received: {type(error).__name__}.") from error
        if not isinstance(plain, list) or not plain:
            raise ManifestError(f"{COLUMNS_FILE}: expected a list of columns. Received: {shown(plain)}.")
        columns = tuple(_read_column(value, index) for index, value in enumerate(plain))
        if len({column.name for column in columns}) != len(columns):
            raise ManifestError(f"{COLUMNS_FILE}: expected each column name once.")
        return cls(columns)

    def _row(self, index: int, record: Any) -> Values:
        if isinstance(record, Mapping):
            _check_names(f"record {index}", record.keys(), self.names)
            return [record[name] for name in self.names]
        if isinstance(record, list | tuple) or (isinstance(record, np.ndarray) and record.ndim == 1):
            if len(record) != len(self.columns):
                raise DataError(
                    f"record {index}: expected {len(self.columns)} values ({_listed(self.names)}). "
                    f"Received: {len(record)}."
                )
            return record
        raise DataError(
            f"record {index}: expected an object by column name or a list of {len(self.columns)} values. "
            f"Received: {shown(record)}."
        )


def _rows(table: Mapping[str, Values]) -> int:
    lengths = {name: len(values) for name, values in table.items()}
    first = next(iter(lengths), None)
    for name, length in lengths.items():
        if first is not None and length != lengths[first]:
            raise DataError(f"column {name!r}: expected {lengths[first]} values as in {first!r}. Received: {length}.")
    return lengths[first] if first is not None else 0


def _check_names(where: str, received: Any, expected: tuple[str, ...]) -> None:
    if len(received) == len(expected) and all(name in received for name in expected):
        return
    missing = [name for name in expected if name not in received]
    unknown = [name for name in received if name not in expected]
    parts = [f"missing {_listed(missing)}"] if missing else []
    parts += [f"unknown {_listed(unknown)}"] if unknown else []
    raise DataError(f"{where}: expected the columns {_listed(expected)}. Received: {'; '.join(parts)}.")


def _listed(names: Sequence[Any]) -> str:
    some = ", ".join(repr(name) for name in names[:20])
    return some if len(names) <= 20 else f"{some} and {len(names) - 20} more"


def _learn(name: str, values: Values, max_categories: int) -> Column:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"column {name!r}: expected one value per row. Received: an array of shape {array.shape}.")
    present = [(row, value) for row, value in enumerate(_listed_values(values)) if not is_missing(value)]
    if not present:
        raise DataError(f"column {name!r}: expected values. Received: {len(values)} missing ones.")
    textual = isinstance(present[0][1], str)
    for row, value in present:
        if isinstance(value, str) != textual:
            expected = "a text" if textual else "a number"
            raise DataError(
                f"record {row}, column {name!r}: expected {expected} as in the rows before. Received: {shown(value)}."
            )
    if not textual:
        column = Column(name, "numeric")
        TabularProcessor((column,)).encode_columns({name: values})  # raises for what is no number
        return column
    categories = sorted({str(value) for _, value in present})
    if len(categories) > max_categories:
        raise DataError(
            f"column {name!r}: expected at most {max_categories} different texts. Received: {len(categories)}, "
            f"such as {shown(categories[0])}. Leave the column out, or give it numbers."
        )
    return Column(name, "categorical", tuple(categories))


def _listed_values(values: Values) -> list[Any]:
    plain: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return plain


def _numbers(name: str, values: Values) -> Values:
    """Floats `[rows]`, missing as NaN, infinities still in. Arrays and lists of plain numbers pass at once."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "biuf":
            return values
    elif set(map(type, values)) <= _PLAIN:
        with contextlib.suppress(OverflowError):
            return np.array(values, np.float64)
    return [_number(name, row, value) for row, value in enumerate(_listed_values(values))]


def _number(name: str, row: int, value: Any) -> float:
    if is_missing(value):
        return np.nan
    try:
        return number(value)
    except ValueError as error:
        raise DataError(f"record {row}, column {name!r}: {error}. Received: {shown(value)}.") from None


def _coded(name: str, values: Values, codes: Mapping[str, float]) -> list[float]:
    coded = []
    for row, value in enumerate(_listed_values(values)):
        if is_missing(value):
            coded.append(np.nan)
        elif isinstance(value, str):
            coded.append(codes.get(value, UNSEEN))
        else:
            raise DataError(f"record {row}, column {name!r}: expected a text. Received: {shown(value)}.")
    return coded


def _read_column(value: Any, index: int) -> Column:
    where = f"{COLUMNS_FILE}[{index}]"
    if not isinstance(value, dict) or set(value) != {"name", "kind", "categories"}:
        raise ManifestError(f"{where}: expected an object with name, kind and categories. Received: {shown(value)}.")
    name, kind, categories = value["name"], value["kind"], value["categories"]
    if not isinstance(name, str) or kind not in ("numeric", "categorical"):
        raise ManifestError(f"{where}: expected a name and numeric or categorical. Received: {shown(value)}.")
    if not isinstance(categories, list) or not all(isinstance(text, str) for text in categories):
        raise ManifestError(f"{where}.categories: expected a list of texts. Received: {shown(categories)}.")
    if len(set(categories)) != len(categories) or bool(categories) != (kind == "categorical"):
        raise ManifestError(
            f"{where}.categories: expected different texts for a categorical column, none for a numeric."
        )
    return Column(name, kind, tuple(categories))
