"""Which columns of a table a model reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.batch.job import Format, Source
from services.errors import InvalidArgument

_USUAL = {
    "text": ("text",),
    "image": ("image", "path", "bytes"),
    "series": ("window",),
    "prompt": ("prompt", "text"),
}
"""Names that are looked for where the user names no column."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the model takes and the user says. `names` are the processor's columns; `window` the steps of a series."""

    kind: str
    names: tuple[str, ...] = ()
    window: int = 1
    key: str | None = None
    column: str | None = None


def choose_columns(format_: Format, wanted: Wanted, columns: Callable[[], Mapping[str, Any]], root: str) -> Source:
    """The source of a table whose columns are `columns()`: name to type or example; none for JSON lines without names.

    Raises InvalidArgument naming the columns that are missing and those that are there.
    """
    found = columns()
    if wanted.key is not None and wanted.key not in found and format_ != "jsonl":
        raise _missing((wanted.key,), found)
    source = Source(format_, wanted.kind, root, (), wanted.key)
    if wanted.kind in {"tabular", "tensors"}:
        chosen = tuple(dict.fromkeys(_holder(name, found) for name in wanted.names)) if found else ()
    elif wanted.kind == "series" and all(name in found for name in wanted.names) and wanted.column is None:
        chosen = wanted.names
        if format_ == "csv" or not all(_holds_many(found[name]) for name in chosen):
            return Source(format_, wanted.kind, root, chosen, wanted.key, wanted.window)
    elif wanted.kind == "prompt":
        chosen = _with_options(wanted, found, format_)
    else:
        chosen = _single(wanted, found)
    # Each JSON line has names of its own: one without a column is a bad record, and says nothing of the others.
    missing = tuple(name for name in chosen if name not in found and format_ != "jsonl")
    if missing or (not chosen and found):
        raise _missing(missing or wanted.names, found)
    return Source(source.format, source.kind, root, chosen, wanted.key)


def element(name: str) -> tuple[str, int] | None:
    """The column of vectors and the place in it that a name such as `features_3` means; None for any other name."""
    column, _, index = name.rpartition("_")
    return (column, int(index)) if column and index.isascii() and index.isdigit() else None


def _holder(name: str, found: Mapping[str, Any]) -> str:
    """The column that holds what a model calls `name`: of that name, or the vector that it is an element of."""
    part = element(name)
    return part[0] if name not in found and part and _holds_many(found.get(part[0])) else name


def _single(wanted: Wanted, found: Mapping[str, Any]) -> tuple[str, ...]:
    if wanted.column is not None:
        return (wanted.column,)
    if not found:
        return ()  # each line is the record itself
    others = [name for name in found if name != wanted.key]
    usual = [name for name in _USUAL.get(wanted.kind, ()) if name in found]
    if usual:
        return (usual[0],)
    if len(others) == 1 and wanted.kind != "series":
        return (others[0],)
    if wanted.kind == "series":
        return wanted.names
    raise InvalidArgument(
        f"Expected --column to name the one with the {wanted.kind}, out of {', '.join(found)}. Received: none."
    )


def _with_options(wanted: Wanted, found: Mapping[str, Any], format_: Format) -> tuple[str, ...]:
    """The column of prompts, then those of the processor's other names that are there, or may be in some JSON line."""
    options = tuple(name for name in wanted.names[1:] if (name in found or format_ == "jsonl") and name != wanted.key)
    prompts = _single(wanted, {name: example for name, example in found.items() if name not in options})
    return (*prompts, *options) if prompts else ()


def _holds_many(value: Any) -> bool:
    """Whether a column's type (Parquet) or example (JSON) is a list of numbers."""
    return isinstance(value, list) or str(value).startswith(("list", "fixed_size_list", "large_list"))


def _missing(names: tuple[str, ...], found: Mapping[str, Any]) -> InvalidArgument:
    return InvalidArgument(
        f"Expected the columns {', '.join(names)}. Received a table with {', '.join(found) or 'none'}."
    )
