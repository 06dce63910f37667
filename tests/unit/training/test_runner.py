"""A whole training run on a small table: repeatable, resumable, exported and reported. One TensorFlow process."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from services.errors import DataError, FailedPrecondition, InvalidArgument, NotFound
from services.manifest import Manifest
from services.parity import Limits
from training.options import parse
from training.pipeline import Source
from training.pipelines import find
from training.precision import judge
from training.precision.options import Precision, VariantOptions
from training.report import number
from training.runner import Interrupted, Job, Outcome, train

# Keras reads the learning rate in a way that numpy warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SETTINGS = ["epochs=4", "units=8", "bins=0", "batch_size=16"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prices.csv"
    random = np.random.default_rng(0)
    rows = ["size,age,city,price"]
    for index in range(160):
        size, age = random.uniform(20, 200), random.uniform(0, 90)
        city = ("Ulm", "Bonn", "Kiel")[index % 3]
        price = 3 * size - 2 * age + {"Ulm": 0, "Bonn": 40, "Kiel": 90}[city] + random.normal(0, 5)
        rows.append(f"{size:.2f},{age:.1f},{'' if index % 10 == 0 else city},{price:.2f}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def job(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("work")
    pipeline = find("regressor")
    options = parse(pipeline.options, SETTINGS)
    return Job(pipeline, options, Source(table, "price"), "prices", folder / "models", folder / "runs")


@pytest.fixture(scope="module")
def first(job: Job) -> tuple[Outcome, str]:
    return run(job)


def run(job: Job) -> tuple[Outcome, str]:
    console = Console(file=io.StringIO(), width=120)
    outcome = train(job, console)
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


def test_the_metrics_are_those_of_the_table_on_the_terminal(first: tuple[Outcome, str]) -> None:
    outcome, printed = first
    assert set(outcome.metrics) == {"rmse", "mae", "r2"}
    assert number(outcome.metrics["rmse"]) in printed
    assert "linear model" in printed


def test_no_progress_bar_is_drawn_where_there_is_no_terminal(first: tuple[Outcome, str]) -> None:
    assert "trained 4 epochs" in first[1]
    assert "epoch 1/4" not in first[1]


def test_the_export_carries_metrics_baseline_and_provenance(first: tuple[Outcome, str], job: Job) -> None:
    outcome, _ = first
    manifest = Manifest.read(job.repository / "prices" / str(outcome.exported.version))
    assert manifest.metrics == outcome.metrics
    assert manifest.baseline == outcome.baseline.metrics
    assert manifest.provenance.dataset == "prices.csv"
    assert manifest.provenance.options["units"] == [8]
    assert "keras" in manifest.provenance.packages


def test_the_report_is_one_file_that_needs_no_network(first: tuple[Outcome, str]) -> None:
    html = first[0].run.report.read_text(encoding="utf-8")
    assert "Residuals" in html
    assert "prices.csv" in html
    assert html.count("data:image/") >= 3
    assert not re.search(r"<script|<link|(src|href)=\"(?!data:)", html)


def test_tensorboard_logs_are_written(first: tuple[Outcome, str]) -> None:
    assert list(first[0].run.tensorboard.rglob("events.out.tfevents.*"))


def test_a_second_run_with_the_same_seed_gives_the_same_figures(first: tuple[Outcome, str], job: Job) -> None:
    again, _ = run(job)
    assert again.metrics == first[0].metrics
    assert again.history == first[0].history
    assert again.exported.version == first[0].exported.version + 1


def test_an_interrupted_run_continues_from_its_last_epoch(job: Job, interrupt_after: Callable[[int], None]) -> None:
    job = replace(job, name="resumed")
    interrupt_after(2)
    with pytest.raises(Interrupted, match="after 2 epochs; --resume continues") as caught:
        run(job)
    record = json.loads((caught.value.run.directory / "run.json").read_text())
    assert record["status"] == "running"
    with np.load(caught.value.run.checkpoint) as saved:
        assert 0 < float(saved["seconds"]) < 1000
        state = {**saved, "seconds": 1000.0}
    np.savez(caught.value.run.checkpoint, **state)
    interrupt_after(0)
    outcome, printed = run(replace(job, resume=True))
    assert "resuming after epoch 2 of at most 4" in printed
    assert outcome.run.directory == caught.value.run.directory
    assert len(outcome.history) == 4
    assert re.search(r"trained 2 epochs in \d+\.\d s, 4 in 10\d\d\.\d s with those before the interruption", printed)
    assert 1000 < json.loads((outcome.run.directory / "run.json").read_text())["seconds"] < 1100
    assert re.search(r"10\d\d\.\d s of fitting", outcome.run.report.read_text())
    with pytest.raises(NotFound, match="Nothing to resume"):
        run(replace(job, resume=True))


def test_ctrl_c_after_fitting_says_how_to_go_on_and_nothing_is_fitted_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    job = replace(job, name="judged")
    with monkeypatch.context() as patched:
        patched.setattr("training.runner.judge", stop)
        with pytest.raises(Interrupted, match="Interrupted; --resume continues"):
            run(job)
    outcome, printed = run(replace(job, resume=True))
    assert "trained 0 epochs" in printed
    assert len(outcome.history) == 4


def test_a_damaged_checkpoint_is_named(job: Job, interrupt_after: Callable[[int], None]) -> None:
    job = replace(job, name="damaged")
    interrupt_after(1)
    with pytest.raises(Interrupted) as caught:
        run(job)
    caught.value.run.checkpoint.write_bytes(caught.value.run.checkpoint.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"checkpoint\.npz: expected the checkpoint of a run"):
        run(replace(job, resume=True))


def test_a_run_with_other_options_is_not_resumed(job: Job, interrupt_after: Callable[[int], None]) -> None:
    job = replace(job, name="changed")
    interrupt_after(1)
    with pytest.raises(Interrupted):
        run(job)
    other = replace(job, resume=True, options=replace(job.options, seed=7))
    with pytest.raises(FailedPrecondition, match="seed was 0 and is now 7"):
        run(other)


def test_early_stopping_keeps_the_best_weights(job: Job) -> None:
    options = parse(
        job.pipeline.options, ["epochs=60", "patience=2", "units=32", "learning_rate=0.3", "schedule=constant"]
    )
    outcome, _ = run(replace(job, name="stopped", options=options))
    losses = [entry["val_loss"] for entry in outcome.history]
    assert len(losses) < 60
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_a_diverging_run_says_so_and_exports_nothing(job: Job) -> None:
    options = parse(job.pipeline.options, ["learning_rate=1e30", "units=8", "schedule=constant", "activation=elu"])
    with pytest.raises(FailedPrecondition, match="Training diverged"):
        run(replace(job, name="diverged", options=options))
    assert not (job.repository / "diverged").exists()


def test_a_diagnosis_names_what_is_wrong_and_changes_nothing_that_is_learnt(job: Job) -> None:
    settings = ["epochs=4", "units=" + ",".join(["8"] * 10), "activation=sigmoid", "bins=0", "batch_size=16"]
    options = parse(job.pipeline.options, settings)
    plain, _ = run(replace(job, name="plain", options=options))
    diagnosed, printed = run(replace(job, name="diagnosed", options=options, diagnose=True))
    assert diagnosed.history == plain.history
    assert diagnosed.metrics == plain.metrics
    assert diagnosed.diagnosis is not None
    assert "vanishing gradient" in {finding.kind for finding in diagnosed.diagnosis.findings}
    report = diagnosed.run.report.read_text(encoding="utf-8")
    for text in (printed, report):
        assert "The gradient fades on its way from the output to the input: in dense" in text
        assert "activation=relu" in text
    assert "Gradient norm by layer and epoch" in report
    assert "Diagnosis" not in plain.run.report.read_text(encoding="utf-8")


def test_a_diverging_run_leaves_its_diagnosis(job: Job) -> None:
    options = parse(job.pipeline.options, ["optimizer=sgd", "learning_rate=1e3", "units=8", "activation=elu"])
    console = Console(file=io.StringIO(), width=120)
    with pytest.raises(FailedPrecondition, match="Training diverged"):
        train(replace(job, name="exploded", options=options, diagnose=True), console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "exploding gradient, epoch 1" in printed
    assert "clip_global_norm" in printed


def test_a_name_that_is_no_folder_name_is_refused(job: Job) -> None:
    with pytest.raises(InvalidArgument, match="Expected a model name"):
        run(replace(job, name="../up"))


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Raise KeyboardInterrupt at the start of the epoch after the given one, as Ctrl-C would; 0 for never."""
    from training.callbacks import EpochProgress

    def arm(epochs: int) -> None:
        class Interrupting(EpochProgress):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                if epochs and epoch == epochs:
                    raise KeyboardInterrupt

        monkeypatch.setattr("training.callbacks.EpochProgress", Interrupting)

    return arm


def test_other_precisions_are_published_beside_the_model_or_not_and_all_is_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "INT8_LIMITS", Limits(nrmse=0.0))
    variants = VariantOptions((Precision.FP16, Precision.INT8), most_loss=1.0)
    outcome, printed = run(replace(job, name="small", variants=variants))
    half, eight = outcome.variants
    assert half.exported is not None
    manifest = half.exported.manifest
    assert manifest.variant is not None
    assert (manifest.variant.source, manifest.variant.metric) == ("small", "rmse")
    assert manifest.metrics["rmse"] == pytest.approx(outcome.metrics["rmse"], rel=0.01)
    assert eight.exported is None
    assert sorted(path.name for path in job.repository.glob("small*")) == ["small", "small-fp16"]
    for text in (printed, outcome.run.report.read_text(encoding="utf-8")):
        assert "small-fp16" in text
        assert "refused" in text
    assert "small-int8 is not published" in printed
