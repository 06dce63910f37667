"""Ranges that are searched: what a user may write, what options declare, and what a trial makes of them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from services.errors import InvalidArgument
from training.options import Bounds, Search
from training.pipeline import CommonOptions
from training.pipelines import pipelines
from training.tuning.space import declared_axes, options_at, parameters_of, plain, settings_of, space_of


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of every kind that has a range."""

    units: Annotated[tuple[int, ...], Bounds(1), Search(8, 64, log=True, depth=(1, 3))] = (16, 16)
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.0
    blocks: Annotated[int | None, Bounds(1)] = None
    activation: Literal["relu", "gelu"] = "relu"
    norm: bool = False
    names: tuple[str, ...] = ()


class Chooses:
    """A trial that takes the low end of ranges, or the high one, and the first of choices, or the last."""

    def __init__(self, *, high: bool) -> None:
        self.high = high

    def suggest_int(self, _: str, low: int, high: int, *, log: bool = False) -> int:  # Optuna's signature
        return high if self.high else low

    def suggest_float(self, _: str, low: float, high: float, *, log: bool = False) -> float:
        return high if self.high else low

    def suggest_categorical(self, _: str, choices: list[str]) -> Any:
        return choices[-1 if self.high else 0]


@pytest.mark.parametrize(
    ("search", "low", "high"),
    [
        ("units=4..32", (4, 4), (32, 32)),
        ("units=4..32x1..3", (4,), (32, 32, 32)),
        ("units=4..32x1..1", (4,), (32,)),
        ("units=16|32,8", (16,), (32, 8)),
        ("dropout=0.1..0.4", 0.1, 0.4),
        ("learning_rate=1e-5..1e-3:log", 1e-5, 1e-3),
        ("learning-rate=.001..0.5", 0.001, 0.5),
        ("blocks=1..4", 1, 4),
        ("blocks=none|2", None, 2),
        ("activation=gelu|relu", "gelu", "relu"),
        ("activation", "relu", "gelu"),
        ("norm", True, False),
        ("dropout", 0, 0.5),
    ],
)
def test_a_range_reaches_from_end_to_end(search: str, low: Any, high: Any) -> None:
    axes = space_of(Options(), [search])
    values = [getattr(options_at(Options(), axes, Chooses(high=end)), axes[0].name) for end in (False, True)]
    assert values == [low, high]


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        ("widths=1..2", r"an option out of .*units.*Received: 'widths'"),
        ("seed=1..9", "does not decide how trials are compared. Received: 'seed'"),
        ("units=32..4", "the lower one first. Received: '32..4'"),
        ("units=0..4", "ends that are int,int,... at least 1"),
        ("dropout=0..1", "ends that are float from 0 and below 1"),
        ("dropout=0..0.5:log", "ends above 0"),
        ("dropout=0.5..0.1", "the lower end first"),
        ("dropout=0.1..0.2x1..2", "expected LOW..HIGH"),
        ("units=4..32x3..1", "the lower one first"),
        ("activation=relu..gelu", "expected values with | between them"),
        ("activation=relu|tanh", "expected relu | gelu. Received: 'tanh'"),
        ("activation=relu", "different values with |"),
        ("names", "expected a range"),
        ("blocks", "expected a range such as blocks=1..4"),
        ("dropout=", "expected LOW..HIGH"),
        ("blocks=none..4", "ends that are one number each. Received: 'none..4'"),
        ("blocks=1..none", "ends that are one number each"),
        ("units=,..4", "ends that are one number each"),
        ("units=4..8,9", "ends that are one number each"),
        ("widths=1..2", "units, dropout, blocks, activation, norm, names. Received"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(search: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint.replace("|", r"\|").replace("..", r"\.\.")):
        space_of(Options(), [search])


def test_an_option_is_searched_once() -> None:
    with pytest.raises(InvalidArgument, match="expected dropout once"):
        space_of(Options(), ["dropout=0..0.1", "dropout=0..0.2"])


def test_without_ranges_those_that_the_options_declare_are_searched() -> None:
    assert plain(space_of(Options(), [])) == {
        "batch_size": "16..128:log",
        "learning_rate": "0.0001..0.01:log",
        "units": "8..64x1..3:log",
        "dropout": "0..0.5",
    }


def test_options_within_the_space_are_the_trial_that_they_would_be() -> None:
    axes = space_of(Options(), ["units=4..32x1..3", "activation=gelu|relu", "dropout"])
    assert parameters_of(Options(), axes) == {"units": 16, "units.count": 2, "activation": "relu", "dropout": 0.0}
    assert parameters_of(Options(units=(8, 16)), axes) is None
    assert parameters_of(Options(dropout=0.7), axes) is None


def test_settings_are_read_back_as_the_same_options() -> None:
    axes = space_of(Options(), [])
    options = Options(units=(9, 9, 9), dropout=0.1 + 0.2, learning_rate=1 / 3000)
    settings = settings_of(options, axes)
    assert options_at(Options(), axes, Chooses(high=False)) != options
    assert {axis.name: axis.option.parse(settings[axis.name]) for axis in axes} == {
        axis.name: getattr(options, axis.name) for axis in axes
    }


@pytest.mark.parametrize("family", sorted(pipelines()))
def test_what_a_family_declares_lies_within_its_bounds(family: str) -> None:
    for axis in declared_axes(pipelines()[family].options):
        for end in (False, True):
            axis.option.check(axis.suggest(Chooses(high=end)))
