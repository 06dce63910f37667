"""Tables for the tabular families: feature columns and a target, checked before anything is trained on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from training.datasets.cells import Columns, read_columns
from training.pipeline import Loaded, Source

TargetKind = Literal["number", "class", "optional class"]

MIN_ROWS = 10
_LISTED = 20
_MOST_DISTINCT = 0.5
_FEW_CATEGORIES = 50


@dataclass(frozen=True)
class Table:
    """Feature columns by name (f64 with NaN for missing, or object arrays of `str | None`) and the target.

    `target` is f64 `[rows]` for a number, an object array of `str` for classes, `None` for an unlabelled table.
    """

    columns: Columns
    target: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> "Table":
        """The rows at the given indices, in that order."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(columns, None if self.target is None else self.target[rows])


def load_table(
    source: Source, kind: TargetKind, *, categorical: Sequence[str] = (), drop: Sequence[str] = ()
) -> Loaded[Table]:
    """Read and check the user's table. `source.path` is set.

    `source.target` names the target, by column name or index; it may be left out where the file says it (an NPZ, or a
    file without a header that starts with the class) or `kind` makes it optional ('' then means none). Raises DataError.
    """
    path = source.path
    if path is None:
        raise ValueError("load_table reads files: the default data is the family's")
    columns = read_columns(path, categorical)
    _known(path, columns, (*categorical, *drop))
    columns = {name: column for name, column in columns.items() if name not in drop}
    name = _target_name(path, source.target, columns, kind)
    target = None if name is None else columns.pop(name)
    if not columns:
        raise DataError(f"{path.name}: expected at least one column beside the target. Found none.")
    rows = len(next(iter(columns.values())))
    if rows < MIN_ROWS:
        raise DataError(f"{path.name}: expected at least {MIN_ROWS} rows. Found {rows}.")
    for column, values in columns.items():
        _check_feature(path.name, column, values)
    if target is not None and name is not None:
        _check_present(path.name, name, target)
        target = numbers(path.name, name, target) if kind == "number" else classes(path.name, name, target)
    return Loaded(Table(columns, target), path.name, sha256(path))


def bundled(name: str, features: np.ndarray, names: Sequence[str], target: np.ndarray) -> Loaded[Table]:
    """A data set of an installed package as a table. `features` is `[rows, F]`; `target` numbers or texts `[rows]`."""
    digest = hashlib.sha256(np.ascontiguousarray(features).tobytes() + str(target.tolist()).encode())
    columns = {str(key): features[:, index].astype(np.float64) for index, key in enumerate(names)}
    return Loaded(Table(columns, target), name, digest.hexdigest())


def numbers(file: str, name: str, values: np.ndarray) -> np.ndarray:
    """The target of a regression. Raises DataError where it is no number or the same everywhere."""
    if values.dtype == object:
        row = next(row for row, value in enumerate(values, start=1) if value is not None)
        raise DataError(
            f"{file}, row {row}, column {name!r}: expected a number to predict. Found {values[row - 1]!r}. "
            f"For classes, use the family classifier."
        )
    if np.ptp(values) == 0:
        raise DataError(f"{file}, column {name!r}: expected a target that varies. Found {values[0]:g} in every row.")
    return values


def classes(file: str, name: str, values: np.ndarray) -> np.ndarray:
    """Class names as text, whole numbers without a decimal point. Raises DataError for one class, or a class of one row."""
    texts = values if values.dtype == object else np.array([f"{value:.10g}" for value in values], dtype=object)
    names, counts = np.unique(texts.astype(str), return_counts=True)
    if len(names) < 2:
        raise DataError(f"{file}, column {name!r}: expected at least two classes. Found only {names[0]!r}.")
    if counts.min() < 2:
        alone = names[counts < 2]
        hint = " To predict a number, use the family regressor." if values.dtype != object and len(names) > 20 else ""
        raise DataError(
            f"{file}, column {name!r}: expected at least two rows of every class. "
            f"Found one of {len(alone)} of the {len(names)} classes, such as {alone[0]!r}.{hint}"
        )
    return texts


def _target_name(path: Path, wanted: str | None, columns: Columns, kind: TargetKind) -> str | None:
    names = list(columns)
    if wanted == "" and kind == "optional class":
        return None
    if wanted is None:
        if path.suffix.lower() == ".npz" and "target" in columns:
            return "target"
        if names[:2] == ["class", "x1"]:
            return "class"
        if kind == "optional class":
            return None
        raise DataError(f"{path.name}: expected --target, one of {_listed(names)}. Received none.")
    if wanted in columns:
        return wanted
    if wanted.lstrip("-").isdecimal() and -len(names) <= int(wanted) < len(names):
        return names[int(wanted)]
    raise DataError(f"{path.name}: expected a target out of the columns {_listed(names)}. Received {wanted!r}.")


def _known(path: Path, columns: Columns, names: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            raise DataError(f"{path.name}: expected columns out of {_listed(list(columns))}. Received {name!r}.")


def _check_feature(file: str, name: str, values: np.ndarray) -> None:
    """Raise for a column that holds nothing, or one text per row: an identifier that nothing can be learnt from."""
    if values.dtype != object:
        if np.isnan(values).all():
            raise DataError(
                f"{file}, column {name!r}: expected some values. Found none. Leave it out: --set drop={name}."
            )
        return
    present = [value for value in values if value is not None]
    if not present:
        raise DataError(f"{file}, column {name!r}: expected some values. Found none. Leave it out: --set drop={name}.")
    distinct = len(set(present))
    if distinct > max(_FEW_CATEGORIES, _MOST_DISTINCT * len(present)):
        raise DataError(
            f"{file}, column {name!r}: expected numbers or categories that recur. Found {distinct} different texts in "
            f"{len(present)} rows, such as {present[0]!r}. Leave it out: --set drop={name}."
        )


def _check_present(file: str, name: str, target: np.ndarray) -> None:
    missing = np.array([value is None for value in target]) if target.dtype == object else np.isnan(target)
    if missing.any():
        rows = np.flatnonzero(missing) + 1
        some = ", ".join(str(row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise DataError(
            f"{file}, column {name!r}: expected a target in every row. Found none in {len(rows)} of {len(target)} rows: "
            f"{some}."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
