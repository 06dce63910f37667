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


def valley(rates: np.ndarray) -> np.ndarray:
    """A loss that is lowest at 0.01, and rises alike on both sides of it."""
    return 0.2 + 0.3 * np.abs(np.log10(rates) + 2)


def test_the_rate_is_a_fifth_of_that_with_the_lowest_loss() -> None:
    rates = np.geomspace(1e-5, 1.0, 141)
    found = suggest(Sweep(tuple(rates), tuple(valley(rates))))
    assert found.lowest == pytest.approx(1e-2, rel=0.01)  # one step is a factor of 1.09: smoothing moves nothing
    assert found.rate == pytest.approx(2e-3, rel=0.01)
    assert found.reason.startswith("a fifth of the rate at which the loss was lowest, 0.01;")


def test_the_chance_of_single_batches_says_little() -> None:
    rates = np.geomspace(1e-5, 1.0, 141)
    losses = valley(rates) + np.random.default_rng(0).normal(0, 0.05, len(rates))
    losses[100] = 0.0
    assert suggest(Sweep(tuple(rates), tuple(losses))).rate == pytest.approx(2e-3, rel=0.5)


def test_where_the_loss_never_falls_nothing_is_suggested() -> None:
    with pytest.raises(FailedPrecondition, match=r"Expected the loss to fall.*Received: 0\.7 at first, 0\.7 at best"):
        suggest(Sweep((1e-6, 1e-5, 1e-4), (0.7, 0.7, 0.7)))


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
