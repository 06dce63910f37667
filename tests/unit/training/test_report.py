"""The report and the terminal table: what is compared, what is marked, and that the page stands alone."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from services.manifest import Manifest, ParityRecord, Provenance
from services.tensors import BY_NAME, Signature, TensorSpec
from training.evaluation import new_figure
from training.exporter import Exported
from training.pipeline import Baseline, Plot
from training.pipelines import find
from training.report import RunReport, image, is_error, loss_plot, metric_rows, number, print_metrics, write_report

SIGNATURE = Signature(
    (TensorSpec("features", BY_NAME["float32"], (-1, 2)),), (TensorSpec("prediction", BY_NAME["float32"], (-1, 1)),)
)
HISTORY = [{"loss": 3.0, "val_loss": 2.5}, {"loss": 2.0, "val_loss": 2.0}, {"loss": 1.0, "val_loss": 2.2}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.99123, "0.9912"),
        (5.4321, "5.432"),
        (57.123, "57.12"),
        (12345.6, "12,346"),
        (3e-9, "3.000e-09"),
    ],
)
def test_figures_have_four_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("name", "error"),
    [("rmse", True), ("log_loss", True), ("rmse_step_1", True), ("accuracy", False), ("roc_auc", False)],
)
def test_errors_are_better_when_small(name: str, error: bool) -> None:
    assert is_error(name) is error


def test_the_primary_metric_comes_first_and_each_is_judged_by_its_direction() -> None:
    rows = metric_rows(
        find("regressor"),
        {"mae": 4.0, "rmse": 5.0, "r2": 0.8},
        Baseline("linear", {"rmse": 6.0, "mae": 4.0, "r2": 0.9}),
    )
    assert [(row.name, row.better) for row in rows] == [("rmse", True), ("mae", None), ("r2", False)]
    assert rows[0].primary


def test_a_metric_without_a_baseline_is_not_judged() -> None:
    (row,) = metric_rows(find("regressor"), {"rmse": 5.0}, Baseline("none", {}))
    assert row.better is None
    assert row.baseline_text == ""


def test_the_terminal_shows_model_and_baseline_side_by_side() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_metrics(console, find("regressor"), {"rmse": 5.0}, Baseline("linear model", {"rmse": 6.0}))
    assert isinstance(console.file, io.StringIO)
    assert re.search(r"rmse\s+│\s+5\.000\s+│\s+6\.000", console.file.getvalue())


def test_the_report_shows_the_run_and_needs_nothing_else(tmp_path: Path) -> None:
    html = written(tmp_path, {"rmse": 5.4321})
    for text in (
        "5.432",
        "6.789",
        "linear model",
        "prices.csv",
        "features: float32 [-1, 2]",
        "onnx",
        "3 epochs",
        "best at 2",
    ):
        assert text in html
    assert "Random base weights" not in html
    assert not re.search(r"<script|<link|(src|href)=\"(?!data:)", html)


@pytest.mark.parametrize(("losses", "scale"), [((25.0, 17.8), "linear"), ((2.0, 0.01), "log"), ((2.0, -0.5), "linear")])
def test_losses_have_a_logarithmic_scale_where_they_are_far_apart(losses: tuple[float, ...], scale: str) -> None:
    plot = loss_plot([{"loss": loss, "val_loss": loss} for loss in losses])
    assert plot.figure.axes[0].get_yscale() == scale


def test_random_base_weights_are_marked(tmp_path: Path) -> None:
    assert "Random base weights" in written(tmp_path, {}, base_weights="random", history=[])


def test_text_from_the_data_is_escaped(tmp_path: Path) -> None:
    html = written(tmp_path, {}, labels=("<b>spam</b>",))
    assert "<b>spam</b>" not in html
    assert "&lt;b&gt;spam&lt;/b&gt;" in html


def test_a_heavy_drawing_becomes_a_bitmap() -> None:
    figure, axes = new_figure()
    axes.plot(range(3))
    assert image(figure).startswith("data:image/svg+xml;base64,")
    axes.scatter(range(9000), range(9000))
    assert image(figure).startswith("data:image/png;base64,")


def written(
    folder: Path,
    metrics: Mapping[str, float],
    *,
    base_weights: str = "",
    labels: tuple[str, ...] = (),
    history: list[dict[str, float]] = HISTORY,
) -> str:
    pipeline = find("regressor")
    manifest = Manifest(
        name="prices",
        family="regressor",
        task="regression",
        created="2026-01-01T00:00:00Z",
        signatures={"serving_default": SIGNATURE},
        labels=labels,
        parity=(ParityRecord("onnx", "prediction", 48, 1e-6, 1e-7, 1e-5, 1e-4),),
        provenance=Provenance(dataset="prices.csv", dataset_sha256="ab12", base_weights=base_weights),
    )
    figure, axes = new_figure()
    axes.plot([0, 1])
    report = RunReport(
        pipeline=pipeline,
        options=pipeline.options(),
        rows={"train": 7, "validation": 2, "test": 2},
        exported=Exported(1, folder, manifest),
        history=history,
        seconds=1.5,
        metrics=metrics,
        baseline=Baseline("linear model", {"rmse": 6.789}),
        plots=[Plot("Residuals", "What is left.", figure)],
    )
    write_report(folder / "report.html", report)
    return (folder / "report.html").read_text(encoding="utf-8")
