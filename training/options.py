"""Options of a model family: the `key=value` settings of `cornet train`, over the declared fields of a dataclass.

    @dataclass(frozen=True)
    class Options(CommonOptions):
        dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
        '''Share of activations dropped while training.'''

    parse(Options, ["dropout=0.2", "units=128,64"])

`services.options` says which types there are; servers' settings are declared in the same way.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from services.errors import InvalidArgument
from services.options import Bounds, Option, Search, options_of, value_text

__all__ = [
    "FLAGS",
    "FLAGS_HELP",
    "Bounds",
    "Option",
    "Search",
    "check",
    "listing",
    "options_of",
    "parse",
    "settings_of_flags",
    "value_text",
]

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that takes every option of a family as a flag: `settings_of_flags` reads them."""
FLAGS_HELP = "Every option of a family is also a flag: --dropout 0.2 is --set dropout=0.2."

OptionsT = TypeVar("OptionsT")


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


def settings_of_flags(arguments: Sequence[str]) -> list[str]:
    """`--units 128,64 --batch-norm=true --deterministic` as `key=value`; a flag without a value is true.

    Raises InvalidArgument for a word that belongs to no flag.
    """
    settings: list[str] = []
    words = iter(range(len(arguments)))
    for index in words:
        word = arguments[index]
        if not word.startswith("--"):
            raise InvalidArgument(f"Expected an option. Received: {word!r}.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            has_value = index + 1 < len(arguments) and not arguments[index + 1].startswith("--")
            value = arguments[next(words)] if has_value else "true"
        settings.append(f"{key}={value}")
    return settings


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
