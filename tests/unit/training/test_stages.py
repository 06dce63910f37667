"""Training in more than one stage: what is frozen, kept, resumed and reported. One TensorFlow process, small tables."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from training.fitting import fit_in_memory
from training.options import parse
from training.pipeline import Examples, Source, Stage
from training.pipelines.regressor import Regressor, RegressorOptions
from training.runner import Interrupted, Job, Outcome, encoded_parts, train
from training.stages import StageResult, bought

# Keras reads the learning rate in a way that numpy warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class InTwo(Regressor):
    """A regressor whose hidden layer is frozen in the first stage."""

    def stages(self, options: RegressorOptions) -> tuple[Stage[RegressorOptions], ...]:
        return Stage("last layer", options), Stage("all layers", replace(options, epochs=3, learning_rate=3e-3))

    def build(self, *arguments: Any) -> keras.Model:
        model = super().build(*arguments)
        hidden(model).trainable = False
        model.compile("adam", "mse")
        return model

    def begin(self, model: keras.Model, train: Examples, options: RegressorOptions) -> None:
        hidden(model).trainable = True
        model.compile(keras.optimizers.Adam(options.learning_rate), "mse")


def hidden(model: keras.Model) -> keras.layers.Layer:
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("stages")
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 3))
    lines = [f"{a},{b},{c},{a * b + c}" for a, b, c in rows]
    (folder / "table.csv").write_text("\n".join(["a,b,c,y", *lines]))
    options = parse(RegressorOptions, ["epochs=2", "units=8", "bins=0", "dropout=0.1", "schedule=constant"])
    return Job(InTwo(), options, Source(folder / "table.csv", "y"), "staged", folder / "models", folder / "runs")


def run(job: Job) -> tuple[Outcome, str]:
    console = Console(file=io.StringIO(), width=120)
    outcome = train(job, console)
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


@pytest.fixture(scope="module")
def whole(job: Job) -> tuple[Outcome, str]:
    return run(job)


def test_every_stage_has_its_epochs_and_its_step_size(whole: tuple[Outcome, str]) -> None:
    rates = [round(entry["learning_rate"], 6) for entry in whole[0].history]
    assert rates == [0.001, 0.001, 0.003, 0.003, 0.003]


def test_terminal_and_report_say_what_the_second_stage_bought(whole: tuple[Outcome, str]) -> None:
    outcome, printed = whole
    for text in (printed, outcome.run.report.read_text(encoding="utf-8")):
        assert "all layers took rmse on held-out rows from" in text
        assert "Published: the weights of" in text


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_run_is_resumed_in_either_stage_and_between_them(
    job: Job, whole: tuple[Outcome, str], interrupt_in: Callable[[int], None], epochs: int
) -> None:
    job = replace(job, name=f"after-{epochs}")
    interrupt_in(epochs)
    with pytest.raises(Interrupted, match=f"after {epochs} epochs"):
        run(job)
    interrupt_in(0)
    outcome, _ = run(replace(job, resume=True))
    assert [sorted(entry) for entry in outcome.history] == [sorted(entry) for entry in whole[0].history]
    # Keras shuffles a resumed run in another order, so that only what was computed before is the same.
    assert outcome.history[:epochs] == whole[0].history[:epochs]


def test_the_weights_of_the_better_stage_are_published(job: Job) -> None:
    class Spoiling(InTwo):
        def begin(self, model: keras.Model, train: Examples, options: RegressorOptions) -> None:
            super().begin(model, train, replace(options, learning_rate=5.0))

    outcome, printed = run(replace(job, pipeline=Spoiling(), name="spoilt"))
    losses = [entry["val_loss"] for entry in outcome.history]
    assert min(losses[:2]) < min(losses[2:])
    assert "Published: the weights of last layer" in printed
    assert "(worse)" in printed
    assert outcome.metrics["rmse"] < 10


@pytest.mark.parametrize("rate", [3e-3, 5.0])
def test_fitting_without_a_run_trains_every_stage_and_leaves_the_best_weights(job: Job, rate: float) -> None:
    class Stepping(InTwo):
        def begin(self, model: keras.Model, train: Examples, options: RegressorOptions) -> None:
            super().begin(model, train, replace(options, learning_rate=rate))

    pipeline, told = Stepping(), []
    _, processor, training, validation, _ = encoded_parts(
        pipeline, job.source, job.options, Console(file=io.StringIO())
    )
    keras.utils.set_random_seed(0)
    model = pipeline.build(training, processor, job.options)
    losses = fit_in_memory(pipeline, model, training, validation, job.options, lambda *args: told.append(args))
    assert told == [(epoch, min(losses[: epoch + 1])) for epoch in range(5)]
    assert (min(losses[:2]) < min(losses[2:])) == (rate > 1)
    learnt = pipeline.to_learn(validation, training, job.options)
    left = model.evaluate(learnt.inputs, learnt.targets, verbose=0)
    assert left == pytest.approx(min(losses), rel=1e-4)


def test_an_error_that_falls_is_better_and_a_score_that_falls_is_worse() -> None:
    first = StageResult("head", 3, 2, 0.5, {"rmse": 2.0, "accuracy": 0.9}, published=False)
    second = StageResult("rest", 2, 5, 0.4, {"rmse": 1.0, "accuracy": 0.8}, published=True)
    assert "(better). Published: the weights of rest" in bought([first, second], "rmse")[0]
    assert "(worse)" in bought([first, second], "accuracy")[0]
    assert bought([first, second], "r2") == []


@pytest.fixture
def interrupt_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Raise KeyboardInterrupt, as Ctrl-C would, before the epoch after so many of all stages; 0 for never."""
    from training.callbacks import EpochProgress

    def arm(epochs: int) -> None:
        class Interrupting(EpochProgress):
            seen = 0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                if epochs and self.seen == epochs:
                    raise KeyboardInterrupt
                self.seen += 1

        monkeypatch.setattr("training.callbacks.EpochProgress", Interrupting)

    return arm


def test_what_is_frozen_is_neither_trained_nor_stored(job: Job, tmp_path: Path, whole: tuple[Outcome, str]) -> None:
    from training.callbacks import Checkpoint

    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(64, trainable=False)(inputs)))
    model.compile("adam", "mse")
    frozen = model.layers[1].get_weights()
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", patience=2)
    checkpoint.enter(model, 0)
    rows = np.ones((8, 2), np.float32), np.zeros(8, np.float32)
    model.fit(*rows, validation_data=rows, callbacks=[checkpoint], verbose=0)
    with np.load(tmp_path / "checkpoint.npz") as saved:
        assert (64,) not in {saved[key].shape for key in saved.files}
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], frozen[0])
    model.layers[1].trainable = True
    model.compile("adam", "mse")
    checkpoint.enter(model, 1)
    for weight in model.weights:
        weight.assign(weight + 1.0)
    checkpoint.use(model, 0)
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], frozen[0])
