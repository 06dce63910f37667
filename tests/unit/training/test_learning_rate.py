"""The learning rate that a sweep suggests: on the way down, and nothing is trained or published by looking for it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from services.errors import FailedPrecondition, InvalidArgument
from training.learning_rate import JSON_FILE, Sweep, find_learning_rate, suggest
from training.options import parse
from training.pipeline import Source
from training.pipelines import find

# Keras reads the learning rate in a way that numpy warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_the_rate_is_where_the_loss_falls_most_steeply() -> None:
    rates = np.geomspace(1e-6, 1.0, 121)
    falling = 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))  # steepest at 1e-3
    rising = np.where(rates > 0.1, 50 * (rates - 0.1), 0.0)
    found = suggest(Sweep(tuple(rates), tuple(0.2 + falling + rising)))
    assert found.rate == pytest.approx(1e-3, rel=0.15)
    assert found.lowest == pytest.approx(0.1, rel=0.2)
    assert "most steeply" in found.reason


def test_the_chance_of_single_batches_is_no_slope() -> None:
    rates = np.geomspace(1e-6, 1.0, 171)
    losses = 0.2 + 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))
    losses[:3] += (0.5, 0.2, 0.0)  # the first means are of few batches
    losses += np.random.default_rng(0).normal(0, 0.02, len(rates))
    assert suggest(Sweep(tuple(rates), tuple(losses))).rate == pytest.approx(1e-3, rel=1.0)


def test_where_the_loss_never_falls_nothing_is_suggested() -> None:
    with pytest.raises(FailedPrecondition, match=r"Expected the loss to fall.*Received: 1 at first, 0\.999 at best"):
        suggest(Sweep((1e-6, 1e-5, 1e-4), (1.0, 0.999, 5.0)))


def test_a_sweep_suggests_a_rate_that_works_and_keeps_nothing_else(tmp_path: Path) -> None:
    pipeline = find("regressor")
    options = parse(pipeline.options, ["units=16", "bins=0", "schedule=cosine", "warmup_epochs=2", "batch_size=64"])
    console = Console(file=io.StringIO(), width=120)
    found = find_learning_rate(pipeline, options, Source(), tmp_path / "regressor", console)
    assert 1e-4 < found.rate < found.lowest < 10
    assert isinstance(console.file, io.StringIO)
    assert f"suggested: --learning-rate {found.rate:g} with adam" in console.file.getvalue()
    (folder,) = (tmp_path / "regressor").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [JSON_FILE, "learning_rate.svg"]
    record = json.loads((folder / JSON_FILE).read_text())
    assert len(record["rates"]) == len(record["losses"]) > 50
    assert record["suggested"] == found.rate


def test_a_family_without_gradient_descent_has_no_learning_rate(tmp_path: Path) -> None:
    pipeline = find("vgg16")
    options = parse(pipeline.options, ["weights=random"])
    with pytest.raises(InvalidArgument, match=r"learns by gradient descent for --find-lr\. Received: vgg16"):
        find_learning_rate(pipeline, options, Source(), tmp_path, Console(file=io.StringIO()))
