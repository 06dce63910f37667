"""Tables for the tabular families: feature columns and a target, checked before anything is trained on them."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from training.datasets.cells import Columns, check_known, listed, read_columns
from training.datasets.classes import check_classes
from training.datasets.images import hash_tree
from training.datasets.parquet import is_element, parts_of
from training.datasets.places import Places
from training.pipeline import Loaded, Source

TargetKind = Literal["number", "class", "optional class"]
Constant = Literal["error", "drop"]

_log = logging.getLogger(__name__)

MIN_ROWS = 10
_MANY_LABELS = 20
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
    source: Source,
    kind: TargetKind,
    *,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    constant: Constant = "error",
) -> Loaded[Table]:
    """Read and check the user's table. `source.path` is set.

    `source.target` names the target, by column name or index; it may be left out where the file says it (an NPZ, or a
    file without a header that starts with the class) or `kind` makes it optional ('' then means none). `constant` says
    what becomes of columns that hold the same in every row. Raises DataError.
    """
    path = source.path
    if path is None:
        raise ValueError("load_table reads files: the default data is the family's")
    columns, places = read_columns(path, categorical, drop)
    check_known(path, columns, categorical)
    name = _target_name(path, source.target, columns, kind)
    target = None if name is None else columns.pop(name)
    if not columns:
        raise DataError(f"{path.name}: expected at least one column beside the target. Found none.")
    rows = len(next(iter(columns.values())))
    if rows < MIN_ROWS:
        raise DataError(f"{path.name}: expected at least {MIN_ROWS} rows. Found {rows}.")
    columns = _varying(path, columns, constant)
    for column, values in columns.items():
        _check_feature(path.name, column, values)
    if target is None or name is None:
        return Loaded(Table(columns), path.name, _digest(path))
    _check_present(path.name, name, target, places)
    if kind == "number":
        table = Table(columns, numbers(path.name, name, target, places))
    else:
        table = Table(columns, *classes(target))
        hint = _regression_hint(target, table.labels)
        if kind == "class":
            check_classes(f"{path.name}, column {name!r}", table.labels, _indices(table), places.listed, hint=hint)
        elif len(table.labels) < 2:
            raise DataError(
                f"{path.name}, column {name!r}: expected at least two classes. Found only {table.labels[0]!r}."
            )
    return Loaded(table, path.name, _digest(path))


def bundled(
    name: str, features: np.ndarray, names: Sequence[str], target: np.ndarray, labels: Sequence[str] = ()
) -> Loaded[Table]:
    """A data set of an installed package as a table. `features` is `[rows, F]`; `target` as in `Table`."""
    digest = hashlib.sha256(np.ascontiguousarray(features).tobytes() + np.ascontiguousarray(target).tobytes())
    columns = {str(key): features[:, index].astype(np.float64) for index, key in enumerate(names)}
    return Loaded(Table(columns, target, tuple(str(label) for label in labels)), name, digest.hexdigest())


def numbers(file: str, name: str, values: np.ndarray, places: Places) -> np.ndarray:
    """The target of a regression. Raises DataError where it is no number or the same everywhere."""
    if values.dtype == object:
        row = next(row for row, value in enumerate(values) if value is not None)
        raise DataError(
            f"{file}, {places.of(row)}, column {name!r}: expected a number to predict. Found {values[row]!r}. "
            f"For classes, use the family classifier."
        )
    if np.ptp(values) == 0:
        raise DataError(f"{file}, column {name!r}: expected a target that varies. Found {values[0]:g} in every row.")
    return values


def classes(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices int64 `[rows]` and the labels, in the order of the numbers they stand for or of the alphabet.

    A whole number is written without a decimal point.
    """
    known, indices = np.unique(values if values.dtype != object else values.astype(str), return_inverse=True)
    labels = tuple(str(value) if values.dtype == object else f"{value:.10g}" for value in known)
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
        raise DataError(f"{path.name}: expected --target, one of {listed(names)}. Received none.")
    if wanted in columns:
        return wanted
    if wanted.lstrip("-").isdecimal() and -len(names) <= int(wanted) < len(names):
        return names[int(wanted)]
    raise DataError(f"{path.name}: expected a target out of the columns {listed(names)}. Received {wanted!r}.")


def _digest(path: Path) -> str:
    """One SHA-256 of what was read: a file, or the parts of a folder."""
    return sha256(path) if path.is_file() else hash_tree(path, parts_of(path))


def _varying(path: Path, columns: Columns, constant: Constant) -> Columns:
    """The columns that hold more than one value, a missing one counted.

    Elements of vectors, which nobody chose singly, are left out where they do not. Raises DataError that lists all others.
    """
    file = path.name
    steady = [name for name, values in columns.items() if _is_constant(values)]
    chosen = [name for name in steady if not is_element(path, name)]
    if not steady:
        return columns
    if constant == "drop" or not chosen:
        _log.warning("%s: left out the constant columns %s", file, listed(steady))
        kept = {name: values for name, values in columns.items() if name not in steady}
        if not kept:
            raise DataError(f"{file}: expected a column that varies beside the target. Found none.")
        return kept
    steady = chosen
    value = columns[steady[0]][0]
    found = f"{value:g}" if isinstance(value, float) else repr(value)
    plural = f"{len(steady)} columns that hold" if len(steady) > 1 else "a column that holds"
    raise DataError(
        f"{file}, column {steady[0]!r}: expected values that vary: nothing can be learnt from one. Found {plural} the same "
        f"in every row ({found} in {steady[0]!r}). Leave out with --set constant=drop, or by name: "
        f"--set drop={','.join(steady)}."
    )


def _is_constant(values: np.ndarray) -> bool:
    """Whether every row holds the same. A column of nothing at all is left to `_check_feature`, which says so."""
    if values.dtype != object:
        return bool((values == values[0]).all())
    return values[0] is not None and bool((values == values[0]).all())


def _indices(table: Table) -> np.ndarray:
    if table.target is None:
        raise ValueError("a table of classes has a target")
    return table.target


def _regression_hint(target: np.ndarray, labels: Sequence[str]) -> str:
    many = target.dtype != object and len(labels) > _MANY_LABELS
    return " To predict a number, use the family regressor." if many else ""


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


def _check_present(file: str, name: str, target: np.ndarray, places: Places) -> None:
    missing = np.array([value is None for value in target]) if target.dtype == object else np.isnan(target)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise DataError(
            f"{file}, column {name!r}: expected a target in every row. Found none in {len(rows)} of {len(target)} rows: "
            f"{places.listed(rows)}."
        )
