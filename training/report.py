"""What a run leaves for people: the table on the terminal, and a self-contained HTML report."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from services.files import write_whole
from training.diagnosis.figures import Diagnosis
from training.diagnosis.plots import plots as diagnosis_plots
from training.options import options_of, value_text
from training.pipeline import Baseline, CommonOptions, Pipeline, Plot
from training.precision.table import variant_table

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

    from training.exporter import Exported
    from training.precision.variants import Outcome
    from training.stages import StageResult

_ERRORS = ("rmse", "mae", "mse", "mape", "loss", "error", "alarm", "bits")
_LARGEST_SVG_BYTES = 400_000
_WIDE = 10.0
"""Losses that are further apart than this factor are drawn on a logarithmic scale: its ticks are read badly on less."""


@dataclass(frozen=True)
class RunReport:
    """All that the report shows. `rows` counts rows by part, `seconds` those of fitting in all processes of the run."""

    pipeline: Pipeline
    options: CommonOptions
    rows: Mapping[str, int]
    exported: "Exported"
    history: Sequence[Mapping[str, float]]
    seconds: float
    metrics: Mapping[str, float]
    baseline: Baseline
    plots: Sequence[Plot]
    variants: "Sequence[Outcome]" = ()
    stages: "Sequence[StageResult]" = ()
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class MetricRow:
    """One line of the metrics table; `better` is None where there is nothing to compare with, or both are equal."""

    name: str
    value: float
    baseline: float | None
    better: bool | None
    primary: bool

    @property
    def text(self) -> str:
        return number(self.value)

    @property
    def baseline_text(self) -> str:
        return "" if self.baseline is None else number(self.baseline)


def metric_rows(pipeline: Pipeline, metrics: Mapping[str, float], baseline: Baseline) -> list[MetricRow]:
    """The metrics with the baseline's beside them, the primary one first."""
    names = sorted(metrics, key=lambda name: name != pipeline.primary_metric)
    rows = []
    for name in names:
        other = baseline.metrics.get(name)
        gain = None if other is None else (other - metrics[name]) * (1 if is_error(name) else -1)
        rows.append(MetricRow(name, metrics[name], other, gain > 0 if gain else None, name == pipeline.primary_metric))
    return rows


def is_error(name: str) -> bool:
    """Whether a smaller value of that metric is the better one."""
    return any(word in _ERRORS for word in name.split("_"))


def number(value: float) -> str:
    """A figure with four significant digits, never in exponent form for everyday sizes."""
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    digits = 4 if abs(value) < 1 else max(0, 4 - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"


def print_metrics(console: Console, pipeline: Pipeline, metrics: Mapping[str, float], baseline: Baseline) -> None:
    """The metrics table on the terminal; the model's better figures in green, its worse ones in red."""
    if not metrics:
        return
    table = Table(title=f"{pipeline.family} on held-out rows", title_justify="left")
    table.add_column("metric")
    table.add_column("model", justify="right")
    if baseline.metrics:
        table.add_column(baseline.name, justify="right")
    for row in metric_rows(pipeline, metrics, baseline):
        colour = {True: "green", False: "red", None: "default"}[row.better]
        cells = [f"[bold]{row.name}[/]" if row.primary else row.name, f"[{colour}]{row.text}[/]"]
        table.add_row(*cells, *([row.baseline_text] if baseline.metrics else []))
    console.print(table)


def environment() -> "Environment":
    """The pages' templates, which escape what they are given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    pages = Environment(
        loader=PackageLoader("training"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["number"] = number
    return pages


def write_report(path: Path, report: RunReport) -> None:
    """Write the HTML report: one file, no script, nothing from the network."""
    from training.stages import bought

    starts = [sum(stage.epochs for stage in report.stages[:index]) for index in range(1, len(report.stages))]
    looks = diagnosis_plots(report.diagnosis) if report.diagnosis else []
    plots = [*([loss_plot(report.history, starts)] if report.history else []), *report.plots, *looks]
    images = [(plot.title, plot.caption, image(plot.figure)) for plot in plots]
    manifest = report.exported.manifest
    html = (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            manifest=manifest,
            version=report.exported.version,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            metrics=metric_rows(report.pipeline, report.metrics, report.baseline),
            images=images,
            options=_option_rows(report.options),
            best_epoch=_best_epoch(report.history),
            weights=manifest.provenance.base_weights,
            variants=variant_table(report.variants),
            bought=bought(report.stages, report.pipeline.primary_metric),
        )
    )
    write_whole(path, html, f"the report {path}")


def loss_plot(history: Sequence[Mapping[str, float]], starts: Sequence[int] = ()) -> Plot:
    """Training and validation loss by epoch, with a mark at the epoch whose weights are kept.

    `starts`: how many epochs came before each later stage; a line stands there.
    """
    from training.evaluation import new_figure

    figure, axes = new_figure(width=5.6, height=4.6)
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [entry["loss"] for entry in history], label="training")
    axes.plot(epochs, [entry["val_loss"] for entry in history], label="validation")
    best = _best_epoch(history)
    axes.axvline(best, color="grey", linewidth=1, linestyle="--", label=f"kept: epoch {best}")
    for stage, start in enumerate(starts, start=2):
        axes.axvline(start + 0.5, color="black", linewidth=1, label=f"stage {stage} begins")
    losses = [entry[name] for entry in history for name in ("loss", "val_loss")]
    if 0 < _WIDE * min(losses) < max(losses):
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend()
    caption = (
        "A validation curve that turns up while training still falls is overfitting; the weights before it are kept."
    )
    return Plot("Loss by epoch", caption, figure)


def image(figure: "Figure") -> str:
    """The figure as a data URI: SVG, or PNG where the SVG would be heavy."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "cornet"}):
        for axes in figure.axes:
            if axes.name == "rectilinear" and not axes.images:
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(visible=True, alpha=0.25)
                axes.set_axisbelow(True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "svg+xml"
        if buffer.tell() > _LARGEST_SVG_BYTES:
            buffer, kind = io.BytesIO(), "png"
            figure.savefig(buffer, format="png", dpi=160)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch of least validation loss, counted from 1; 0 where nothing was fitted."""
    losses = [entry["val_loss"] for entry in history]
    return losses.index(min(losses)) + 1 if losses else 0


def _option_rows(options: CommonOptions) -> list[dict[str, Any]]:
    """Name, value, help and whether the value differs from the default, per option."""
    return [
        {
            "name": option.name,
            "value": value_text(getattr(options, option.name)),
            "help": option.help,
            "changed": getattr(options, option.name) != option.default,
        }
        for option in options_of(type(options))
    ]
