"""Table files as named columns, before anybody decides which is the target.

Text files (CSV, TSV, white-space separated), Parquet and NPZ. A numeric column is f64 with NaN for a missing cell, any
other an object array of `str | None`.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.errors import DataError
from training.datasets.npz import open_npz
from training.datasets.parquet import column_names, parts_of, read_parquet
from training.datasets.places import Places

Columns = dict[str, np.ndarray]

FORMATS = (
    ".csv, .tsv, .txt (separated by comma, semicolon, tab, bar or white space), .parquet or a folder of them, .npz"
)
_SEPARATORS = ("\t", ";", ",", "|")
_QUOTED = re.compile(r'"[^"]*"')
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a"})
_LISTED = 20
_MOSTLY = 0.8
"""From this share of numbers on, a column's other cells are taken for mistakes."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Cells:
    """A text file as it is written: names, cells by row, where the rows lie, and whether its numbers have a decimal comma."""

    names: list[str]
    rows: list[list[str]]
    places: Places
    decimal_comma: bool

    def columns(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Each column's name and cells."""
        return zip(self.names, zip(*self.rows, strict=True), strict=True)

    def float(self, cell: str) -> float | None:
        """A cell as a finite number, or None."""
        return _float(cell.replace(",", ".") if self.decimal_comma else cell)


def is_missing(cell: str) -> bool:
    """Whether a cell holds nothing, or a word for it."""
    return cell.strip().lower() in _MISSING


def read_columns(path: Path, categorical: Sequence[str] = (), drop: Sequence[str] = ()) -> tuple[Columns, Places]:
    """All columns of a table file by name, but those in `drop`, and where the rows lie in it.

    Columns in `categorical` stay text even where every cell is a number. A white-space separated file whose first line
    holds numbers alone has no header: its columns are named by the UCR archive's custom, `class` first, then `x1`, `x2`
    and so on. Raises DataError naming the file and the place in it.
    """
    if parts_of(path):
        whole = [name for name in drop if name in column_names(path)]
        columns = read_parquet(path, tuple(categorical), tuple(whole))
        return _without(path, columns, [name for name in drop if name not in whole]), Places()
    check_file(path)
    if path.suffix.lower() == ".npz":
        return _without(path, _npz(path), drop), Places()
    cells = read_cells(path)
    columns = {name: _column(path, name, column, cells, text=name in categorical) for name, column in cells.columns()}
    return _without(path, columns, drop), cells.places


def check_file(path: Path) -> None:
    """Raises DataError where there is no file, or an empty one."""
    if not path.is_file():
        raise DataError(
            f"{path}: expected a table file ({FORMATS}). Found {'a folder' if path.is_dir() else 'nothing'}."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: expected a header and rows. Found an empty file.")


def _without(path: Path, columns: Columns, drop: Sequence[str]) -> Columns:
    check_known(path, columns, drop)
    return {name: column for name, column in columns.items() if name not in drop}


def check_known(path: Path, columns: Columns, names: Sequence[str]) -> None:
    """Raise DataError for a name that no column has."""
    for name in names:
        if name not in columns:
            raise DataError(f"{path.name}: expected columns out of {listed(list(columns))}. Received {name!r}.")


def listed(names: Sequence[str]) -> str:
    """The first twenty names, and how many more there are."""
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def read_cells(path: Path) -> Cells:
    """The cells of a text file, all rows of one width. Raises DataError naming the file and the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name}: expected UTF-8 text ({FORMATS}). Found byte {error.start} that is none."
        ) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path.name}: expected a header and rows. Found an empty file.")
    unquoted = _QUOTED.sub("", lines[0])
    separator = next((mark for mark in _SEPARATORS if mark in unquoted), None)
    if separator is None and all(_float(word) is not None for word in lines[0].split()):
        names = ["class", *(f"x{index}" for index in range(1, len(lines[0].split())))]
        numbered = list(_rows(path, names, _split(path, text, None)))
    else:
        reader = _split(path, text, separator)
        names = _header(path, next(reader)[1])
        numbered = list(_rows(path, names, reader))
    if not numbered:
        raise DataError(f"{path.name}: expected rows below the header. Found none.")
    rows = [cells for _, cells in numbered]
    places = Places(np.array([number for number, _ in numbered]))
    return Cells(names, rows, places, separator != "," and _decimal_comma(rows))


def _split(path: Path, text: str, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """Cells of every line that is not blank, and the line they begin in; a quoted cell may hold separators and breaks."""
    if separator is None:
        yield from ((number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {reader.line_num}: expected well-formed quoting. Found: {error}."
        ) from error


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not all(names):
        raise DataError(
            f"{path.name}: expected a name for every column in the header. "
            f"Found none for column {names.index('') + 1} of {len(names)}."
        )
    _check_unique(path, names)
    if all(_float(name) is not None for name in names):
        raise DataError(f"{path.name}: expected a header with column names. Found numbers: {', '.join(names[:5])}.")
    return names


def _check_unique(path: Path, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path.name}: expected each column name once. Found more than once: {', '.join(twice)}.")


def _rows(path: Path, names: Sequence[str], lines: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for number, cells in lines:
        if len(cells) != len(names):
            raise DataError(
                f"{path.name}, line {number}: expected {len(names)} cells, as in the first line. Found {len(cells)}."
            )
        yield number, cells


def _column(path: Path, name: str, column: Sequence[str], cells: Cells, *, text: bool) -> np.ndarray:
    """Numbers where all cells are, texts where most are not; something between is a mistake in the file."""
    stripped = [cell.strip() for cell in column]
    present = {row: cell for row, cell in enumerate(stripped) if not is_missing(cell)}
    if not text:
        numbers = {row: cells.float(cell) for row, cell in present.items()}
        wrong = [row for row, value in numbers.items() if value is None]
        if not wrong:
            values = np.full(len(column), np.nan)
            values[list(numbers)] = list(numbers.values())
            return values
        if len(wrong) <= (1 - _MOSTLY) * len(present):
            raise DataError(
                f"{path.name}, {cells.places.of(wrong[0])}, column {name!r}: expected a number, as in the other rows. "
                f"Found {stripped[wrong[0]]!r}. If the column holds categories: --set categorical={name}."
            )
    texts = np.full(len(column), None, dtype=object)
    texts[list(present)] = list(present.values())
    return texts


def _decimal_comma(rows: Sequence[Sequence[str]]) -> bool:
    """Whether some cell of the first rows is a number with a decimal comma, and none is one with a point."""
    cells = [cell.strip() for row in rows[:100] for cell in row]
    return any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells) and not any(
        "." in cell and _float(cell) is not None for cell in cells
    )


def _float(text: str) -> float | None:
    """A finite number, or None; underscores and the like that Python allows are no numbers in a file."""
    if "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _npz(path: Path) -> Columns:
    """Arrays `x` `[rows, F]` and `y` `[rows]`, or `features` and `target`; columns are named `x1`... and `target`."""
    with open_npz(path) as archive:
        arrays = dict(archive)
    features = next((arrays[key] for key in ("x", "features") if key in arrays), None)
    target = next((arrays[key] for key in ("y", "target") if key in arrays), None)
    if features is None or features.ndim != 2 or features.dtype.kind not in "biuf" or not len(features):
        shapes = ", ".join(f"{key} {value.dtype}{list(value.shape)}" for key, value in arrays.items()) or "nothing"
        raise DataError(
            f"{path.name}: expected a numeric array 'x' or 'features' of shape [rows, columns]. Found {shapes}."
        )
    columns: Columns = {f"x{index + 1}": column.astype(np.float64) for index, column in enumerate(features.T)}
    for name, column in columns.items():
        if np.isinf(column).any():
            raise DataError(
                f"{path.name}, row {int(np.argmax(np.isinf(column))) + 1}, column {name!r}: expected a finite number."
            )
    if target is not None:
        target = target.reshape(-1) if target.ndim == 2 and target.shape[1] == 1 else target
        if target.shape != features.shape[:1]:
            raise DataError(
                f"{path.name}: expected {len(features)} targets, one per row of the features. "
                f"Found shape {list(target.shape)}."
            )
        numeric = target.dtype.kind in "biuf"
        columns["target"] = target.astype(np.float64) if numeric else target.astype(str).astype(object)
    return columns
