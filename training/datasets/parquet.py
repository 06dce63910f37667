"""Parquet as a table of columns: one file, a folder of parts, or what `cornet batch` has written.

A column of vectors, all of one length, becomes a numeric column per element: `features_0`, `features_1` and so on. In the
output of a batch job over files, `key` holds each file's path below the folder that was read; it gives way to the column
`folder`, the name of the folder that the file lies in, by which pictures are sorted into classes.
"""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SUFFIXES = (".parquet", ".pq")
FOLDER = "folder"
_ROWS, _SUMMARY = "rows", "summary.json"
"""Where a batch job puts its parts, and what it writes when it is done."""
_KEY = "key"


def parts_of(path: Path) -> list[Path]:
    """The Parquet files that a path means, in order; none where it is neither Parquet nor a folder of it.

    Raises DataError for the output of a batch job that is not done.
    """
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    folder = path
    if (path / _ROWS).is_dir():
        if not (path / _SUMMARY).is_file():
            raise DataError(
                f"{path}: expected the output of a batch job that is done, with a {_SUMMARY}. Found none: run the same "
                "cornet batch again, or train on the folder rows/ in it."
            )
        folder = path / _ROWS
    return sorted(entry for entry in folder.glob("*") if entry.suffix.lower() in SUFFIXES and entry.is_file())


def read_parquet(path: Path, categorical: tuple[str, ...] = (), drop: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The columns of all parts by name: f64 with NaN for missing, or object arrays of `str | None`.

    Those in `categorical` stay text, those in `drop` are not read. Raises DataError naming file, row and column.
    """
    table = _table(path, drop)
    columns: dict[str, np.ndarray] = {}
    if _is_batch_output(table):
        columns |= _folders(table) if FOLDER not in table.column_names else {}
        table = table.drop_columns([_KEY])
    for name in table.column_names:
        if _is_list(table.schema.field(name).type):
            columns |= _elements(path, name, table.column(name))
        else:
            columns[name] = _series(path, name, table.column(name).to_pandas(), name in categorical)
    return columns


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file or folder as it has them, vectors unexpanded."""
    return list(_schema(path).names)


def is_element(path: Path, name: str) -> bool:
    """Whether `read_parquet` makes the column of that name of a vector; no other file has any."""
    if not parts_of(path):
        return False
    schema = _schema(path)
    vector, _, index = name.rpartition("_")
    return name not in schema.names and index.isdigit() and vector in schema.names


def _schema(path: Path) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = parts_of(path)[0]
    try:
        return pq.read_schema(part)
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_parquet(part, error) from error


def _table(path: Path, drop: tuple[str, ...]) -> "pa.Table":
    import pyarrow as pa

    tables = [_read(part) for part in parts_of(path)]
    for part, table in zip(parts_of(path), tables, strict=True):
        if table.schema.remove_metadata() != tables[0].schema.remove_metadata():
            raise DataError(f"{part.name}: expected the columns of {parts_of(path)[0].name}. Found others.")
    whole = pa.concat_tables(tables)
    twice = [name for name, count in Counter(whole.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{path.name}: expected each column name once. Found more than once: {', '.join(twice)}.")
    if not whole.num_rows:
        raise DataError(f"{path.name}: expected rows. Found none.")
    return whole.drop_columns([name for name in drop if name in whole.column_names])


def _read(part: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(part).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_parquet(part, error) from error


def _no_parquet(part: Path, error: Exception) -> DataError:
    return DataError(f"{part.name}: expected a Parquet file. Found: {str(error).splitlines()[0]}")


def _is_batch_output(table: "pa.Table") -> bool:
    metadata = table.schema.metadata or {}
    return _KEY in table.column_names and any(key.startswith(b"cornet.") for key in metadata)


def _folders(table: "pa.Table") -> dict[str, np.ndarray]:
    """The name of the folder of each key that is a path; nothing where no key has one."""
    keys = table.column(_KEY).to_pylist()
    names = [PurePosixPath(key).parent.name if isinstance(key, str) else "" for key in keys]
    return {FOLDER: np.array([name or None for name in names], dtype=object)} if any(names) else {}


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _elements(path: Path, name: str, column: "pa.ChunkedArray") -> dict[str, np.ndarray]:
    """A column per element of a column of vectors. Raises DataError where they differ in length or hold no numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    element = column.type.value_type
    if not (pa.types.is_integer(element) or pa.types.is_floating(element) or pa.types.is_boolean(element)):
        raise DataError(
            f"{path.name}, column {name!r}: expected numbers, texts or vectors of numbers. Found {column.type}. "
            f"Leave it out: --set drop={name}."
        )
    lengths = np.array(pc.list_value_length(column).fill_null(-1))
    if (lengths != lengths[0]).any() or lengths[0] < 1:
        row = int(np.argmax(lengths != max(lengths[0], 1)))
        found = "none" if lengths[row] < 0 else f"{lengths[row]} numbers"
        raise DataError(
            f"{path.name}, row {row + 1}, column {name!r}: expected a vector of {max(lengths[0], 1)} numbers, as in the "
            f"first row. Found {found}. Leave the column out: --set drop={name}."
        )
    flat = pc.list_flatten(column).to_numpy().astype(np.float64).reshape(len(column), lengths[0])
    if np.isinf(flat).any():
        row, index = (int(place) for place in np.argwhere(np.isinf(flat))[0])
        raise DataError(
            f"{path.name}, row {row + 1}, column '{name}_{index}': expected a finite number. Found an infinity."
        )
    return {f"{name}_{index}": np.ascontiguousarray(flat[:, index]) for index in range(lengths[0])}


def _series(path: Path, name: str, series: "pd.Series[Any]", text: bool) -> np.ndarray:
    from pandas.api import types

    if types.is_numeric_dtype(series.dtype) and not text:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(values).any():
            row = int(np.argmax(np.isinf(values))) + 1
            raise DataError(
                f"{path.name}, row {row}, column {name!r}: expected a finite number. Found {values[row - 1]}."
            )
        return values
    missing = series.isna().to_numpy()
    cells = [None if gone else value for gone, value in zip(missing, series.tolist(), strict=True)]
    for row, value in enumerate(cells, start=1):
        if value is not None and not isinstance(value, str | int | float | bool):
            raise DataError(
                f"{path.name}, row {row}, column {name!r}: expected a number or a text. "
                f"Found {type(value).__name__}. Leave the column out with --set drop={name}, or convert it."
            )
    return np.array([None if value is None else str(value) for value in cells], dtype=object)
