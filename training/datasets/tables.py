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

    `target` is f64 `[rows]` for a number, int64 `[rows]` indices into `labels` for classes, `None` for an unlabelled table.
    """

    columns: Columns
    target: np.ndarray | None = None
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> "Table":
        """The rows at the given indices, in that order."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(columns, None if self.target is None else self.target[rows], self.labels)


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
    if target is None or name is None:
        return Loaded(Table(columns), path.name, sha256(path))
    _check_present(path.name, name, target)
    if kind == "number":
        table = Table(columns, numbers(path.name, name, target))
    else:
        table = Table(columns, *classes(path.name, name, target, at_least=2 if kind == "class" else 1))
    return Loaded(table, path.name, sha256(path))


def bundled(
    name: str, features: np.ndarray, names: Sequence[str], target: np.ndarray, labels: Sequence[str] = ()
) -> Loaded[Table]:
    """A data set of an installed package as a table. `features` is `[rows, F]`; `target` as in `Table`."""
    digest = hashlib.sha256(np.ascontiguousarray(features).tobytes() + np.ascontiguousarray(target).tobytes())
    columns = {str(key): features[:, index].astype(np.float64) for index, key in enumerate(names)}
    return Loaded(Table(columns, target, tuple(str(label) for label in labels)), name, digest.hexdigest())


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


def classes(file: str, name: str, values: np.ndarray, *, at_least: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices int64 `[rows]` and the labels, in the order of the numbers they stand for or of the alphabet.

    A whole number is written without a decimal point. Raises DataError for one class alone, or a class of fewer than
    `at_least` rows.
    """
    known, indices, counts = np.unique(
        values if values.dtype != object else values.astype(str), return_inverse=True, return_counts=True
    )
    labels = tuple(str(value) if values.dtype == object else f"{value:.10g}" for value in known)
    if len(labels) < 2:
        raise DataError(f"{file}, column {name!r}: expected at least two classes. Found only {labels[0]!r}.")
    if counts.min() < at_least:
        rare = [label for label, count in zip(labels, counts, strict=True) if count < at_least]
        hint = " To predict a number, use the family regressor." if values.dtype != object and len(labels) > 20 else ""
        raise DataError(
            f"{file}, column {name!r}: expected at least {at_least} rows of every class. "
            f"Found fewer for {len(rare)} of the {len(labels)} classes, such as {rare[0]!r}.{hint}"
        )
    return indices.astype(np.int64), labels


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
