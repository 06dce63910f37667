"""Labelled texts: a CSV or TSV file, or the docstrings of installed packages.

A CSV file quotes as RFC 4180 says; in any other file tabs part the fields and quotes are plain text.
"""

import ast
import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from textwrap import shorten

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from training.datasets.classes import check_classes
from training.datasets.places import Places
from training.pipeline import Loaded

DOCSTRING_PACKAGES = {
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "statsmodels": "statsmodels",
}
"""Distribution to package: what training has installed anyway."""

_DOCSTRINGS_EACH = 500
_SHORTEST, _LONGEST = 40, 400
_LONGEST_FIELD = 10_000_000


@dataclass(frozen=True)
class Texts:
    """Texts and their classes: `targets` int64 `[N]` holds indices into `labels`, the sorted class names."""

    texts: tuple[str, ...]
    targets: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "Texts":
        """The texts at these indices, in their order."""
        return Texts(tuple(self.texts[row] for row in rows), self.targets[rows], self.labels)


def load_texts(path: Path, *, target: str | None = None, text: str = "", encoding: str = "utf-8") -> Loaded[Texts]:
    """Read a CSV or TSV file with a header line.

    `target` names the column of labels, by default the one with the fewest different values; `text` that of texts, by default
    the longest of the others. A BOM is passed over. Raises DataError naming file, line and column.
    """
    header, rows, places = _read(path, encoding)
    for name in (target, text):
        if name and name not in header:
            raise DataError(f"{path.name}: expected a column {name!r}. Found: {', '.join(header)}.")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    lengths = {name: sum(map(len, values)) for name, values in columns.items()}
    unread = [name for name in header if name != text]
    label_column = target or min(unread, key=lambda name: (len(set(columns[name])), lengths[name]))
    text_column = text or max((name for name in header if name != label_column), key=lengths.__getitem__)
    if text_column == label_column:
        raise DataError(f"{path.name}: expected two columns for text and label. Received: {text_column!r} for both.")
    for name in (text_column, label_column):
        empty = [row for row, value in enumerate(columns[name]) if not value.strip()]
        if empty:
            raise DataError(
                f"{path.name}, {places.of(empty[0])}, column {name!r}: expected a text. Found an empty one"
                f"{f', and {len(empty) - 1} more' if len(empty) > 1 else ''}."
            )
    if len(set(columns[text_column])) == 1:
        raise DataError(
            f"{path.name}, column {text_column!r}: expected texts that differ. "
            f"Found {shorten(columns[text_column][0], 80)!r} in every row."
        )
    data = labelled(columns[text_column], [label.strip() for label in columns[label_column]])
    check_classes(f"{path.name}, column {label_column!r}", data.labels, data.targets, places.listed)
    return Loaded(data, path.name, sha256(path))


def docstrings(packages: dict[str, str] | None = None) -> Loaded[Texts]:
    """Opening sentences of docstrings, labelled by their package; read from source files, nothing is imported.

    The same installed versions give the same texts. Raises DataError where fewer than two of the packages are installed.
    """
    found = {name: folder for name, package in (packages or DOCSTRING_PACKAGES).items() if (folder := _folder(package))}
    if len(found) < 2:
        raise DataError(
            f"Expected two installed packages out of {', '.join(DOCSTRING_PACKAGES)}. Found: {list(found)}."
        )
    texts: list[str] = []
    labels: list[str] = []
    for name, folder in found.items():
        own = list(islice(_openings(folder), _DOCSTRINGS_EACH))
        texts += own
        labels += [name] * len(own)
    digest = hashlib.sha256("\0".join(f"{label}\t{text}" for label, text in zip(labels, texts, strict=True)).encode())
    sources = ", ".join(f"{name} {version(name)}" for name in found)
    return Loaded(labelled(texts, labels), f"docstrings of {sources}", digest.hexdigest())


def labelled(texts: Sequence[str], labels: Sequence[str]) -> Texts:
    """Texts with each label as an index into the sorted class names."""
    names, targets = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    return Texts(tuple(texts), targets.astype(np.int64), tuple(str(name) for name in names))


def _read(path: Path, encoding: str) -> tuple[list[str], list[list[str]], Places]:
    """Header, rows, all of one width, and where the rows lie."""
    if not path.is_file():
        raise DataError(f"{path}: expected a CSV or TSV file of texts and labels. Found nothing.")
    try:
        content = path.read_bytes().decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: expected {encoding} text. Received: the byte 0x{error.object[error.start]:02x}. "
            "Another encoding is named by the option `encoding`."
        ) from error
    except LookupError as error:
        raise DataError(f"Expected a known text encoding. Received: {encoding!r}.") from error
    if path.suffix.lower() == ".csv":
        numbered = _csv_rows(path, content)
    else:
        lines = content.replace("\r\n", "\n").split("\n")
        numbered = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [fields for _, fields in numbered]
    if len(rows) < 2 or len(rows[0]) < 2:
        found = f"{len(rows)} lines, the first with {len(rows[0]) if rows else 0} fields"
        raise DataError(f"{path.name}: expected a header of two columns at least, and rows. Found: {found}.")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise DataError(f"{path.name}: expected different column names. Found: {', '.join(header)}.")
    for number, row in numbered[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path.name}, line {number}: expected {len(header)} fields ({', '.join(header)}). Found: {len(row)}."
            )
    return header, rows[1:], Places(np.array([number for number, _ in numbered[1:]]))


def _csv_rows(path: Path, content: str) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it begins in."""
    limit = csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(content.splitlines(keepends=True), strict=True)
    rows, begins = [], 1
    try:
        for row in reader:
            if any(row):
                rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {begins}: expected CSV with fields quoted as RFC 4180 says. Received: {error}."
        ) from error
    else:
        return rows
    finally:
        csv.field_size_limit(limit)


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _openings(folder: Path) -> Iterator[str]:
    """The openings of a package's docstrings, without repeats, in an order that mixes its parts."""
    files = [file for file in folder.rglob("*.py") if "tests" not in file.parts]
    seen = set()
    for file in sorted(files, key=lambda file: hashlib.sha256(file.relative_to(folder).as_posix().encode()).digest()):
        for docstring in _docstrings(file):
            opening = shorten(docstring, _LONGEST, placeholder="")
            if len(opening) >= _SHORTEST and opening not in seen:
                seen.add(opening)
                yield opening


def _docstrings(file: Path) -> Iterator[str]:
    """Those of a source file's module, classes and functions; none where it is no Python of this version."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
