"""Options of a model family: what there is, and how `key=value` becomes a typed value.

A family declares a frozen dataclass; each field's annotation says its type and, through `Bounds`, its range, and the
docstring beside it is its help:

    @dataclass(frozen=True)
    class Options(CommonOptions):
        dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
        '''Share of activations dropped while training.'''

    parse(Options, ["dropout=0.2", "units=128,64"])

Types: int, float, bool, str, Literal, `tuple[T, ...]` (written `128,64`; bounds hold for each item) and `T | None`
(written `none`).
"""

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from services.errors import InvalidArgument

OptionsT = TypeVar("OptionsT")

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
            return f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if self.low is None:
            return f"{'below' if self.open_high else 'at most'} {self.high:g}"
        return f"{'above' if self.open_low else 'from'} {self.low:g} {'and below' if self.open_high else 'to'} {self.high:g}"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a family. `hint` is its annotation without the bounds."""

    name: str
    hint: Any
    default: Any
    help: str
    bounds: Bounds | None

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
            value = _parse(self.hint, text.strip())
        except ValueError:
            raise InvalidArgument(f"Option {self.name}: expected {self.type_text}. Received: {text!r}.") from None
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Raise InvalidArgument where a number of the value is out of bounds, or is no number."""
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if not isinstance(item, int | float) or isinstance(item, bool):
                continue
            if not math.isfinite(item) or (self.bounds is not None and item not in self.bounds):
                raise InvalidArgument(
                    f"Option {self.name}: expected {self.type_text}. Received: {value_text(value)!r}."
                )


def options_of(options_type: type) -> tuple[Option, ...]:
    """Every option of a dataclass, in the order of declaration, inherited ones first."""
    hints = get_type_hints(options_type, include_extras=True)
    helps = _field_docs(options_type)
    return tuple(
        Option(field.name, *_split_hint(hints[field.name], field.default, helps.get(field.name, "")))
        for field in dataclasses.fields(options_type)
    )


def parse(options_type: type[OptionsT], settings: Iterable[str]) -> OptionsT:
    """An instance of `options_type` with the `key=value` settings applied to its defaults; the last of a key wins.

    Raises InvalidArgument for an unknown key (listing the known ones), a value of the wrong type or out of range.
    """
    known = {option.name: option for option in options_of(options_type)}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise InvalidArgument(f"Expected a setting of the form key=value. Received: {setting!r}.")
        if key not in known:
            raise InvalidArgument(f"Unknown option {key!r}. Expected one of:\n{listing(options_type)}")
        values[key] = known[key].parse(text)
    return options_type(**values)


def check(options: Any) -> None:
    """Raise InvalidArgument for an option out of its range, for instances that did not come from `parse`."""
    for option in options_of(type(options)):
        option.check(getattr(options, option.name))


def listing(options_type: type) -> str:
    """One line per option: name, type and default."""
    options = options_of(options_type)
    names = max(len(option.name) for option in options)
    kinds = max(len(option.type_text) for option in options)
    return "\n".join(f"  {o.name:<{names}}  {o.type_text:<{kinds}}  default {o.default_text}" for o in options)


def value_text(value: Any) -> str:
    """A value as a user would write it after `key=`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value_text(item) for item in value) or "''"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def _split_hint(hint: Any, default: Any, help_text: str) -> tuple[Any, Any, str, Bounds | None]:
    if get_origin(hint) is not Annotated:
        return hint, default, help_text, None
    plain, *extras = get_args(hint)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    return plain, default, help_text, bounds


def _parse(hint: Any, text: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in arguments:
            return None
        return _parse(next(a for a in arguments if a is not type(None)), text)
    if origin is tuple:
        return tuple(_parse(arguments[0], item.strip()) for item in text.split(",") if item.strip())
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        if text not in choices:
            raise ValueError
        return choices[text]
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    if hint in (int, float, str):
        return hint(text)
    raise TypeError(f"options of type {hint} are not supported")


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join("none" if a is type(None) else _type_text(a) for a in arguments)
    if origin is tuple:
        item = _type_text(arguments[0])
        return f"{item},{item},..."
    if origin is Literal:
        return " | ".join(str(choice) or "''" for choice in arguments)
    return str(getattr(hint, "__name__", hint))


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
