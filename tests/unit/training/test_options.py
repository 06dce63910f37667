"""`key=value` settings become typed options, or an error that says what was expected."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from services.errors import InvalidArgument
from training.options import Bounds, check, listing, options_of, parse


@dataclass(frozen=True)
class Base:
    epochs: Annotated[int, Bounds(1)] = 100
    """Most epochs
    to train."""


@dataclass(frozen=True)
class Options(Base):
    rate: Annotated[float, Bounds(0, 1, open_low=True)] = 1e-3
    """Step size."""
    units: Annotated[tuple[int, ...], Bounds(1)] = (64, 32)
    """Widths."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Cell."""
    batch_norm: bool = False
    """Normalise."""
    name: str = ""
    """Name."""
    limit: int | None = None
    """Limit."""


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("rate=0.5", "rate", 0.5),
        ("rate=1", "rate", 1.0),
        ("units=128", "units", (128,)),
        ("units=128, 64,8", "units", (128, 64, 8)),
        ("units=", "units", ()),
        ("cell=gru", "cell", "gru"),
        ("batch_norm=yes", "batch_norm", True),
        ("batch-norm=FALSE", "batch_norm", False),
        ("name=a=b", "name", "a=b"),
        ("limit=7", "limit", 7),
        ("limit=none", "limit", None),
    ],
)
def test_setting_becomes_a_value_of_the_fields_type(setting: str, field: str, value: object) -> None:
    parsed = getattr(parse(Options, [setting]), field)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=0", "Option epochs: expected int at least 1. Received: '0'"),
        ("epochs=9223372036854775808", "Option epochs: expected int at least 1. Received: '9223372036854775808'"),
        ("epochs=2.5", "Option epochs: expected int at least 1. Received: '2.5'"),
        ("rate=0", "Option rate: expected float above 0 to 1. Received: '0'"),
        ("rate=nan", "Option rate: expected float above 0 to 1. Received: 'nan'"),
        ("units=8,0", "Option units: expected int,int,... at least 1. Received: '8,0'"),
        ("cell=rnn", "Option cell: expected lstm | gru. Received: 'rnn'"),
        ("batch_norm=maybe", "Option batch_norm: expected bool. Received: 'maybe'"),
        ("epochs", "Expected a setting of the form key=value. Received: 'epochs'"),
    ],
)
def test_a_value_that_does_not_fit_says_what_was_expected(setting: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(Options, [setting])
    assert message in str(caught.value)


def test_an_unknown_key_lists_the_known_ones_with_type_and_default() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(Options, ["dropuot=0.1"])
    assert "Unknown option 'dropuot'" in str(caught.value)
    assert listing(Options) in str(caught.value)
    assert "  units       int,int,... at least 1  default 64,32" in listing(Options)


def test_the_last_setting_of_a_key_wins() -> None:
    assert parse(Options, ["epochs=3", "epochs=4"]).epochs == 4


def test_help_is_the_docstring_beside_the_field_inherited_ones_first() -> None:
    first, second, *_ = options_of(Options)
    assert (first.name, first.help) == ("epochs", "Most epochs to train.")
    assert (second.name, second.help) == ("rate", "Step size.")


def test_values_that_did_not_come_from_text_are_checked_too() -> None:
    with pytest.raises(InvalidArgument, match="epochs"):
        check(Options(epochs=0))
    check(Options())
