"""Optimizers and schedules by name: what contradicts itself is refused, and an interrupted run takes the same steps."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest

from services.errors import InvalidArgument
from training.callbacks import Checkpoint
from training.optimization import GradientOptions, OptimizerName, optimizer, schedule_callbacks
from training.options import parse
from training.pipelines import find
from training.schedules import Warmup, stays

ROWS = 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["momentum=0.9"], "Expected an optimizer out of sgd, rmsprop with momentum.*optimizer=adam, momentum=0.9"),
        (["optimizer=sgd", "nesterov=true"], "Expected optimizer=sgd and momentum above 0 with nesterov"),
        (["optimizer=rmsprop", "momentum=0.9", "nesterov=true"], "Received: optimizer=rmsprop"),
        (["clip_norm=1", "clip_value=0.5"], "Expected one of clip_norm.*Received: clip_norm=1, clip_value=0.5"),
        (["schedule=cosine", "decay_factor=0.5"], "Expected schedule=step or plateau.*Received: schedule=cosine"),
        (["schedule=constant", "decay_epochs=4"], "decay_epochs=4"),
        (["epochs=3", "warmup_epochs=3"], "Expected a warm-up that ends before the last epoch.*warmup_epochs=3"),
        (["optimizer=adamm"], "expected adam | adamw"),
        (["weight_decay=-1"], "weight_decay: expected float | none at least 0"),
    ],
)
@pytest.mark.parametrize("family", ["regressor", "cnn", "lstm", "transformer", "autoencoder"])
def test_options_that_contradict_each_other_are_refused_in_every_family(
    family: str, settings: list[str], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(find(family).options, settings)


def test_a_family_without_gradient_descent_has_no_optimizer() -> None:
    with pytest.raises(InvalidArgument, match="Unknown option 'optimizer'"):
        parse(find("vgg16").options, ["weights=random", "optimizer=sgd"])


def test_clipping_decay_and_momentum_reach_keras() -> None:
    made = optimizer(
        GradientOptions(optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=0.1, clip_global_norm=2.0), ROWS
    )
    assert isinstance(made, keras.optimizers.SGD)
    assert (made.momentum, made.nesterov, made.weight_decay, made.global_clipnorm) == (0.9, True, 0.1, 2.0)
    assert (made.clipnorm, made.clipvalue) == (None, None)


def test_adamw_has_a_decay_without_being_told() -> None:
    assert optimizer(GradientOptions(optimizer="adamw"), ROWS).weight_decay == 0.004
    assert optimizer(GradientOptions(), ROWS).weight_decay is None


def rates(options: GradientOptions) -> list[float]:
    """The step size at the first of the five steps of each epoch."""
    rate = optimizer(options, ROWS)._learning_rate
    return [float(rate(5 * epoch)) for epoch in range(options.epochs)]


def test_steps_fall_by_the_factor_after_so_many_epochs() -> None:
    options = GradientOptions(epochs=6, batch_size=8, learning_rate=1.0, schedule="step", decay_factor=0.5)
    assert rates(options) == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_a_cosine_begins_after_the_warm_up_and_ends_at_zero() -> None:
    options = GradientOptions(epochs=4, batch_size=8, learning_rate=1.0, schedule="cosine", warmup_epochs=2)
    rate = optimizer(options, ROWS)._learning_rate
    assert isinstance(rate, Warmup)
    assert [float(rate(step)) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [float(rate(step)) for step in (10, 15, 20)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 1.0], False),
        ([1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 0.99995, 0.9999], True),
        ([1.0, 1.1, 0.9, 1.0], False),
    ],
)
def test_a_loss_stays_when_it_gains_nothing_for_so_many_epochs(losses: list[float], expected: bool) -> None:
    assert stays(losses, patience=2) is expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras's own plateau
def test_the_plateau_takes_the_very_steps_of_keras() -> None:
    random = np.random.default_rng(0)
    losses = (1 + random.random(40).cumsum() % 3 * 0.1).tolist()
    ours, theirs = network(GradientOptions(schedule="plateau")), network(GradientOptions(schedule="plateau"))
    history: list[dict[str, float]] = []
    (plateau,) = schedule_callbacks(GradientOptions(schedule="plateau", patience=9), ROWS, history)
    reference = keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=3, min_lr=1e-6)
    plateau.set_model(ours)
    reference.set_model(theirs)
    reference.on_train_begin()
    used = []
    for epoch, loss in enumerate(losses):
        plateau.on_epoch_begin(epoch)
        used.append((float(ours.optimizer.learning_rate), float(theirs.optimizer.learning_rate)))
        history.append({"val_loss": loss})
        reference.on_epoch_end(epoch, {"val_loss": loss})
    assert len({rate for rate, _ in used}) >= 4
    assert [rate for rate, _ in used] == [rate for _, rate in used]


def network(options: GradientOptions) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
    model.compile(optimizer(options, ROWS), "mse")
    return model


@pytest.mark.parametrize(
    "options",
    [
        *(GradientOptions(optimizer=name) for name in get_args(OptimizerName)),
        GradientOptions(optimizer="sgd", momentum=0.9, nesterov=True, clip_norm=0.5),
        GradientOptions(optimizer="rmsprop", momentum=0.9, clip_value=0.5),
        GradientOptions(schedule="cosine", warmup_epochs=2.5),
        GradientOptions(schedule="step", decay_epochs=2),
        GradientOptions(schedule="plateau", decay_epochs=1),
        GradientOptions(schedule="plateau", decay_epochs=1, warmup_epochs=2.5),
    ],
    ids=lambda options: f"{options.optimizer}-{options.schedule}-{options.warmup_epochs:g}",
)
def test_a_resumed_run_takes_the_steps_of_one_that_was_not_interrupted(
    options: GradientOptions, tmp_path: Path
) -> None:
    options = replace(options, epochs=6, batch_size=20, learning_rate=0.05)
    interrupted, straight = tmp_path / "interrupted.npz", tmp_path / "straight.npz"
    fitted(options, interrupted, epochs=3)
    assert fitted(options, interrupted, epochs=6) == fitted(options, straight, epochs=6)


def fitted(options: GradientOptions, path: Path, epochs: int) -> list[dict[str, float]]:
    """The history of a fresh network trained from its checkpoint on, or from the start where there is none."""
    random = np.random.default_rng(0)
    rows, targets = random.normal(size=(ROWS, 3)).astype(np.float32), random.normal(size=(ROWS, 1)).astype(np.float32)
    model, checkpoint = network(options), Checkpoint(path, patience=100)
    checkpoint.read()
    first = checkpoint.enter(model, stage=0)
    model.fit(
        rows,
        targets,
        batch_size=options.batch_size,
        validation_data=(rows, targets + 1),
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        callbacks=[checkpoint, *schedule_callbacks(options, ROWS, checkpoint.histories[0])],
        verbose=0,
    )
    return checkpoint.history
