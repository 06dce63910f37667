"""`--find-lr`: a learning rate to start with, found by a sweep on a model that is thrown away.

Sources: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3: let the rate rise while the loss is
watched. Below a useful rate nothing happens, then the loss falls, and past the largest useful rate it rises again. What to
take of that: a share of the rate at which the loss was lowest. Howard and Gugger 2020, "Deep Learning for Coders with fastai
and PyTorch", chapter 5, take a tenth; here it is a fifth, as training/README.md shows by figures. Where the loss falls most
steeply, the other usual choice, depends on how high it happens to begin, and so on the seed.
"""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from services.errors import FailedPrecondition
from services.files import replacing, write_whole, writing
from services.processing import Processor
from training.environment import import_keras
from training.evaluation import new_figure
from training.optimization import GradientOptions, gradient_options
from training.options import check
from training.pipeline import CommonOptions, Examples, Pipeline, Plot, Source
from training.runner import encoded_parts

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 200
"""Steps of a sweep, each with a rate that is a constant factor above the one before."""
SMOOTHING = 0.9
"""Share of the mean loss that is carried from step to step: the loss of a single batch says little."""
DIVERGED = 4.0
"""The sweep ends where the mean loss of the steps so far is this many times its lowest."""
SHARE_OF_LOWEST = 0.2
"""What the rate of the lowest loss is multiplied by: training for long bears less than a sweep does in passing."""
LEAST_FALL = 0.02
"""Share of the first loss by which the loss must have fallen somewhere for a rate to be suggested."""
JSON_FILE = "learning_rate.json"


@dataclass(frozen=True)
class Sweep:
    """The rate of each step and the loss of its batch before it, in the order they were taken."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> np.ndarray:
        """Means over the batches around each step, f64: those before alone would show every rise and fall 9 steps late."""
        losses = np.array(self.losses)
        smoothed: np.ndarray = (_running_mean(losses) + _running_mean(losses[::-1])[::-1]) / 2
        return smoothed


@dataclass(frozen=True)
class Suggestion:
    """A rate to train with. `lowest`: the rate at which the loss was lowest, past which it rose."""

    rate: float
    lowest: float

    @property
    def reason(self) -> str:
        return f"a fifth of the rate at which the loss was lowest, {self.lowest:.2g}; larger ones made it rise"


def find_learning_rate(
    pipeline: Pipeline, options: CommonOptions, source: Source, runs: Path, console: Console
) -> Suggestion:
    """Load and encode as a training run does, sweep, and tell; the plot and the figures go to a folder below `runs`.

    Raises InvalidArgument for a family without gradient descent, FailedPrecondition where no rate makes the loss fall.
    """
    pipeline = pipeline.chosen(options)
    descent = gradient_options(pipeline, options, "--find-lr")
    check(descent)
    _, processor, training, validation, _ = encoded_parts(pipeline, source, descent, console)
    import_keras(descent.seed, deterministic=descent.deterministic)
    with console.status(f"sweeping the learning rate from {LOWEST:g} to {HIGHEST:g}"):
        found = sweep(pipeline, descent, training, validation, processor)
    suggestion = suggest(found)
    directory = runs / datetime.now(UTC).strftime("learning-rate-%Y%m%d-%H%M%S-%f")
    with writing(f"the folder of runs {runs}"):
        directory.mkdir(parents=True)
    path = write(directory, found, suggestion)
    console.print(f"suggested: --learning-rate {suggestion.rate:g} with {descent.optimizer}", soft_wrap=True)
    console.print(f"  {suggestion.reason} ({len(found.rates)} steps, source: Smith 2017)", soft_wrap=True)
    console.print(
        f"  this run's options have {descent.learning_rate:g}; nothing was trained or published", soft_wrap=True
    )
    console.print(f"plot     {path}", soft_wrap=True)
    return suggestion


def sweep(
    pipeline: Pipeline, options: GradientOptions, train: Examples, validation: Examples, processor: Processor
) -> Sweep:
    """Train a fresh model with a rising rate and the optimizer, clipping and batch size of the options' first stage."""
    from training.mixed_precision import computing_in, training_dtype
    from training.schedules import RisingRate

    options = pipeline.stages(options)[0].options
    steps_per_epoch = -(-len(train) // options.batch_size)
    plain = dataclasses.replace(
        options,
        epochs=-(-STEPS // steps_per_epoch),
        schedule="constant",
        decay_factor=None,
        decay_epochs=None,
        warmup_epochs=0.0,
    )
    model = pipeline.build(train, processor, plain)
    rising = RisingRate(np.geomspace(LOWEST, HIGHEST, STEPS).tolist(), SMOOTHING, DIVERGED)
    with rising.until_done(), computing_in(model, training_dtype(plain)):
        pipeline.fit(model, train, validation, plain, [rising])
    return Sweep(tuple(rising.rates), tuple(rising.losses))


def suggest(found: Sweep) -> Suggestion:
    """A fifth of the rate at which the loss is lowest.

    Raises FailedPrecondition where it falls nowhere: then nothing is learnt at any rate.
    """
    rates, losses = np.array(found.rates), found.smoothed
    lowest = int(np.argmin(losses))
    if losses[0] - losses[lowest] < LEAST_FALL * abs(losses[0]):
        raise FailedPrecondition(
            f"Expected the loss to fall at some learning rate from {LOWEST:g} to {rates[-1]:.2g}. "
            f"Received: {losses[0]:.4g} at first, {losses[lowest]:.4g} at best. A run with --diagnose says what is wrong."
        )
    return Suggestion(_round(SHARE_OF_LOWEST * float(rates[lowest])), float(rates[lowest]))


def plot(found: Sweep, suggestion: Suggestion) -> Plot:
    """The loss over the rate, of single steps and smoothed, with the suggestion marked."""
    figure, axes = new_figure(width=7.0, height=4.2)
    axes.plot(found.rates, found.losses, ".", color="#b9c3cc", markersize=3, label="one batch")
    axes.plot(found.rates, found.smoothed, label="smoothed")
    axes.axvline(suggestion.rate, color="#1e7d48", linestyle="--", label=f"suggested: {suggestion.rate:.2g}")
    axes.axvline(
        suggestion.lowest, color="grey", linewidth=1, linestyle=":", label=f"lowest loss: {suggestion.lowest:.2g}"
    )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_ylim(top=max(found.smoothed[0] * 1.25, found.smoothed.min()))
    axes.legend()
    return Plot(
        "Loss by learning rate", "Left of the slope nothing is learnt, right of the lowest point it diverges.", figure
    )


def write(directory: Path, found: Sweep, suggestion: Suggestion) -> Path:
    """The figures as JSON and the plot as SVG; returns the plot's path."""
    record: dict[str, Any] = {"suggested": suggestion.rate, "lowest": suggestion.lowest, **dataclasses.asdict(found)}
    write_whole(directory / JSON_FILE, json.dumps(record, indent=1) + "\n")
    path = directory / "learning_rate.svg"
    with writing(str(path)), replacing(path) as temporary:
        plot(found, suggestion).figure.savefig(temporary, format="svg")
    return path


def _running_mean(losses: np.ndarray) -> np.ndarray:
    """The mean of each loss and those before it, which weigh less the longer ago they are."""
    means, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
        means.append(mean / (1 - SMOOTHING**step))
    return np.array(means)


def _round(rate: float) -> float:
    """Two significant digits: the loss of some steps knows no more."""
    return float(f"{rate:.1e}")
