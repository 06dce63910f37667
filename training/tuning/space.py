"""The ranges that are searched: those that options declare, and those that a user gives as `--search key=...`.

units=32..256            a range; of several widths all are equal
units=32..256x1..3       the same with one to three of them
learning_rate=1e-4..1e-2:log
activation=relu|gelu     some values, as --set takes them
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, get_origin

from services.errors import InvalidArgument
from training.options import Option, Search, options_of, value_text
from training.pipeline import CommonOptions

FIXED = frozenset({"seed", "test_share", "validation_share", "epochs", "patience", "deterministic", "task"})
"""Options that decide what is compared, or how: not to be searched."""
_RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>[^|x:]+)(?:x(?P<few>\d+)\.\.(?P<many>\d+))?(?P<log>:log)?")


class Suggests(Protocol):
    """What an Optuna trial offers; Optuna's `FixedTrial`, with chosen values, does so as well."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[str]) -> Any: ...


@dataclass(frozen=True)
class Axis:
    """One searched option: a range, or some values as texts."""

    option: Option
    search: Search | None = None
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.option.name

    def suggest(self, trial: Suggests) -> Any:
        """The value that a trial is to have."""
        if self.search is None:
            return self.option.parse(str(trial.suggest_categorical(self.name, list(self.choices))))
        if not _is_tuple(self.option):
            return self._number(trial, self.name, self.search)
        few, many = self.search.depth
        count = trial.suggest_int(f"{self.name}.count", few, many) if many > few else few
        return (self._number(trial, self.name, self.search),) * count

    def parameters(self, value: Any) -> dict[str, Any] | None:
        """What `suggest` would have to be given to return a value; None where the value lies outside."""
        if self.search is None:
            text = value_text(value)
            return {self.name: text} if text in self.choices else None
        if not _is_tuple(self.option):
            return {self.name: value} if value is not None and self._holds(value) else None
        few, many = self.search.depth
        if not (few <= len(value) <= many and len(set(value)) == 1 and self._holds(value[0])):
            return None
        return {self.name: value[0], **({f"{self.name}.count": len(value)} if many > few else {})}

    def __str__(self) -> str:
        if self.search is None:
            return "|".join(self.choices)
        few, many = self.search.depth
        depth = f"x{few}..{many}" if _is_tuple(self.option) else ""
        return f"{self.search.low:g}..{self.search.high:g}{depth}{':log' if self.search.log else ''}"

    def _number(self, trial: Suggests, name: str, search: Search) -> Any:
        if _number_type(self.option) is int:
            return trial.suggest_int(name, int(search.low), int(search.high), log=search.log)
        return trial.suggest_float(name, search.low, search.high, log=search.log)

    def _holds(self, value: float) -> bool:
        return self.search is not None and self.search.low <= value <= self.search.high


def space_of(base: CommonOptions, searches: Iterable[str]) -> tuple[Axis, ...]:
    """The axes that are named, or every one that the family declares. Raises InvalidArgument.

    Of a row of numbers as many are searched as `base` has, unless the range says otherwise.
    """
    known = {option.name: option for option in options_of(type(base))}
    asked: dict[str, Axis] = {}
    for text in searches:
        key, equals, ranged = text.partition("=")
        key = key.strip().replace("-", "_")
        if key not in known:
            free = ", ".join(name for name in known if name not in FIXED)
            raise InvalidArgument(f"--search: expected an option out of {free}. Received: {key!r}.")
        if key in FIXED:
            raise InvalidArgument(
                f"--search: expected an option that does not decide how trials are compared. Received: {key!r}."
            )
        if key in asked:
            raise InvalidArgument(f"--search: expected {key} once. Received: twice.")
        asked[key] = _axis(known[key], ranged.strip(), getattr(base, key)) if equals else _declared(known[key])
    if asked:
        return tuple(asked.values())
    declared = declared_axes(type(base))
    if not declared:
        raise InvalidArgument("Expected --search KEY=LOW..HIGH: this family declares no ranges. Received: none.")
    return declared


def declared_axes(options_type: type[CommonOptions]) -> tuple[Axis, ...]:
    """Every axis that the options declare."""
    return tuple(_declared(option) for option in options_of(options_type) if option.search is not None)


def options_at(base: CommonOptions, axes: Iterable[Axis], trial: Suggests) -> CommonOptions:
    """The base options with what the trial suggests. Raises InvalidArgument where they contradict each other."""
    return replace(base, **{axis.name: axis.suggest(trial) for axis in axes})


def parameters_of(options: CommonOptions, axes: Iterable[Axis]) -> dict[str, Any] | None:
    """What a trial has to be given to have these options; None where some lie outside the space."""
    found: dict[str, Any] = {}
    for axis in axes:
        given = axis.parameters(getattr(options, axis.name))
        if given is None:
            return None
        found |= given
    return found


def settings_of(options: CommonOptions, axes: Iterable[Axis]) -> dict[str, str]:
    """The searched options' values as `--set` takes them."""
    return {axis.name: _exact(getattr(options, axis.name)) for axis in axes}


def plain(axes: Iterable[Axis]) -> Mapping[str, str]:
    """The space in words, by option."""
    return {axis.name: str(axis) for axis in axes}


def short(setting: str) -> str:
    """A setting's value with as many digits as are worth reading."""
    try:
        return setting if setting.lstrip("-").isdigit() else f"{float(setting):.4g}"
    except ValueError:
        return setting


def _declared(option: Option) -> Axis:
    if option.search is not None:
        return Axis(option, None if option.search.choices else option.search, option.search.choices)
    choices = ("true", "false") if option.hint is bool else _literals(option)
    if not choices:
        raise InvalidArgument(f"--search {option.name}: expected a range such as {option.name}=1..4. Received: none.")
    return Axis(option, None, choices)


def _axis(option: Option, text: str, usual: Any) -> Axis:
    if ".." not in text:
        choices = tuple(part.strip() for part in text.split("|"))
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise InvalidArgument(
                f"--search {option.name}: expected LOW..HIGH, or different values with | between them. Received: {text!r}."
            )
        return Axis(option, None, tuple(value_text(option.parse(choice)) for choice in choices))
    kind, match = _number_type(option), _RANGE.fullmatch(text)
    if kind is None or match is None or (match["few"] and not _is_tuple(option)):
        expected = "LOW..HIGH or LOW..HIGH:log" + (", with xFEW..MANY for how many" if _is_tuple(option) else "")
        expected = expected if kind else "values with | between them"
        raise InvalidArgument(f"--search {option.name}: expected {expected}. Received: {text!r}.")
    low, high = (_end(option, match[side], text) for side in ("low", "high"))
    size = max(1, len(usual)) if _is_tuple(option) else 1
    depth = (int(match["few"]), int(match["many"])) if match["few"] else (size, size)
    log = bool(match["log"]) or (option.search is not None and option.search.log and low > 0)
    if low >= high or (log and low <= 0) or not 1 <= depth[0] <= depth[1]:
        ends = "ends above 0, the lower one first" if log else "the lower end first"
        raise InvalidArgument(f"--search {option.name}: expected {ends}. Received: {text!r}.")
    return Axis(option, Search(low, high, log, depth))


def _end(option: Option, text: str, given: str) -> Any:
    """One end of a range, of the option's type and within its bounds."""
    try:
        value = option.typed(text)
    except ValueError:
        raise InvalidArgument(
            f"--search {option.name}: expected ends that are {option.type_text}. Received: {given!r}."
        ) from None
    ends = value if isinstance(value, tuple) else (value,)
    if len(ends) != 1 or ends[0] is None:
        raise InvalidArgument(f"--search {option.name}: expected ends that are one number each. Received: {given!r}.")
    return ends[0]


def _number_type(option: Option) -> type | None:
    """`int` or `float` for a number, a number or none, or a row of numbers; None for what has no ranges."""
    kinds = {option.hint, *get_args(option.hint)}
    if get_origin(option.hint) is Literal or bool in kinds:
        return None
    return next((kind for kind in (int, float) if kind in kinds), None)


def _is_tuple(option: Option) -> bool:
    return get_origin(option.hint) is tuple


def _literals(option: Option) -> tuple[str, ...]:
    return tuple(str(choice) for choice in get_args(option.hint)) if get_origin(option.hint) is Literal else ()


def _exact(value: Any) -> str:
    """As `--set` takes it, with all digits."""
    return repr(value) if isinstance(value, float) else value_text(value)
