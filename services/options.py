"""Options declared as the fields of a frozen dataclass: what there is, and how a text becomes a typed value.

Each field's annotation says its type and, through `Bounds`, its range; the docstring beside it is its help:

    @dataclass(frozen=True)
    class Options:
        dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
        '''Share of activations dropped while training.'''

    options_of(Options)[0].parse("0.2")

Types: int, float, bool, str, Path, Literal, `tuple[T, ...]` (written `128,64`; bounds hold for each item) and `T | None`
(written `none`).
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from services.errors import InvalidArgument

_LARGEST = 2**63 - 1
"""What arrays and counters of 64 bits hold: integers beyond are no number of anything."""
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of a number, ends included unless open; `None` is no bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = self.high is None or value < self.high or (value == self.high and not self.open_high)
        return above and below

    def __str__(self) -> str:
        if self.high is None:
            return f"{'above' if self.open_low else 'at least'} {_bound(self.low)}"
        if self.low is None:
            return f"{'below' if self.open_high else 'at most'} {_bound(self.high)}"
        low, high = _bound(self.low), _bound(self.high)
        return f"{'above' if self.open_low else 'from'} {low} {'and below' if self.open_high else 'to'} {high}"


@dataclass(frozen=True, slots=True)
class Search:
    """Where good values of an option are looked for when nobody says: `low` to `high`, ends included.

    `log` says that factors count, not differences. Of an option that is a row of numbers, such as the widths of layers, all
    are equal and `depth` is how few and how many there are. `choices` are values as a user writes them, instead of a range.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    depth: tuple[int, int] = (1, 1)
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One field of `owner`. `hint` is its annotation without bounds and search range."""

    name: str
    hint: Any
    default: Any
    bounds: Bounds | None
    owner: type
    search: Search | None = None

    @property
    def help(self) -> str:
        """The docstring beside the field, on one line, read out of the source: for those who show it."""
        return _field_docs(self.owner).get(self.name, "")

    @property
    def type_text(self) -> str:
        """The type as a user would write it: `int`, `relu | tanh`, `int,int,...`, with the range where there is one."""
        text = _type_text(self.hint)
        return text if self.bounds is None else f"{text} {self.bounds}"

    @property
    def default_text(self) -> str:
        return value_text(self.default)

    def parse(self, text: str) -> Any:
        """The typed value of what the user wrote. Raises InvalidArgument."""
        try:
            return self.typed(text)
        except ValueError:
            raise InvalidArgument(f"Option {self.misfit(text)}") from None

    def check(self, value: Any) -> None:
        """Raise InvalidArgument where a number of the value is out of bounds, or is no number."""
        if not self._within(value):
            raise InvalidArgument(f"Option {self.misfit(value_text(value))}")

    def typed(self, value: Any) -> Any:
        """The value, of the type and in the bounds, out of a text or of what JSON has for it. Raises ValueError."""
        typed = _parse(self.hint, value.strip()) if isinstance(value, str) else _converted(self.hint, value)
        if not self._within(typed):
            raise ValueError
        return typed

    def misfit(self, value: object) -> str:
        """What to say of a value that is not accepted."""
        return f"{self.name}: expected {self.type_text}. Received: {value!r}."

    def _within(self, value: Any) -> bool:
        return all(
            (-_LARGEST <= item <= _LARGEST if isinstance(item, int) else math.isfinite(item))
            and (self.bounds is None or item in self.bounds)
            for item in (value if isinstance(value, tuple) else (value,))
            if isinstance(item, int | float) and not isinstance(item, bool)
        )


def options_of(options_type: type) -> tuple[Option, ...]:
    """Every option of a dataclass, in the order of declaration, inherited ones first."""
    hints = get_type_hints(options_type, include_extras=True)
    return tuple(
        _option(field.name, hints[field.name], field.default, options_type)
        for field in dataclasses.fields(options_type)
    )


def value_text(value: Any) -> str:
    """A value as a user would write it after `key=`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value_text(item) for item in value) or "''"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def _bound(value: float | None) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _option(name: str, hint: Any, default: Any, owner: type) -> Option:
    plain, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    search = next((extra for extra in extras if isinstance(extra, Search)), None)
    return Option(name, plain, default, bounds, owner, search)


def _parse(hint: Any, text: str) -> Any:
    """The value a text stands for. Raises ValueError."""
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    if hint in (int, float, str, Path):
        return hint(text)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in arguments:
            return None
        return _parse(_of_union(arguments), text)
    if origin is tuple:
        return tuple(_parse(arguments[0], item.strip()) for item in text.split(",") if item.strip())
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        if text not in choices:
            raise ValueError
        return choices[text]
    raise TypeError(f"options of type {hint} are not supported")


def _converted(hint: Any, value: Any) -> Any:
    """A value that is no text, in the type: JSON has lists for tuples, and integers for whole floats. Raises ValueError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in arguments else _converted(_of_union(arguments), value)
    if origin is tuple and isinstance(value, list | tuple):
        item = arguments[0]
        return tuple(_parse(item, one) if isinstance(one, str) else _converted(item, one) for one in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (hint is Path and isinstance(value, Path)) or type(value) is hint or (origin is Literal and value in arguments):
        return value
    raise ValueError


def _of_union(arguments: tuple[Any, ...]) -> Any:
    return next(argument for argument in arguments if argument is not type(None))


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join("none" if a is type(None) else _type_text(a) for a in arguments)
    if origin is tuple:
        item = _type_text(arguments[0])
        return f"{item},{item},..."
    if origin is Literal:
        return " | ".join(str(choice) or "''" for choice in arguments)
    return "path" if hint is Path else str(getattr(hint, "__name__", hint))


@functools.cache
def _field_docs(options_type: type) -> dict[str, str]:
    """The string literal that follows each annotated field, by field name; a subclass's wins."""
    docs: dict[str, str] = {}
    for cls in reversed(options_type.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assignments = getattr(body, "body", [])
        for field, text in itertools.pairwise(assignments):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs
