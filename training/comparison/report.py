"""The HTML report of a comparison: one file, no script, nothing from the network."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.files import write_whole
from training.comparison.result import Comparison
from training.comparison.table import lines_of, summary, title_of
from training.pipeline import Plot
from training.report import environment, image


def write_report(path: Path, comparison: Comparison, plots: Sequence[Plot]) -> None:
    """Write the page."""
    best = comparison.entries[comparison.best]
    html = (
        environment()
        .get_template("comparison.html")
        .render(
            comparison=comparison,
            best=best,
            title=title_of(comparison),
            sentences=summary(comparison),
            lines=lines_of(comparison),
            images=[(plot.title, plot.caption, image(plot.figure)) for plot in plots],
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    write_whole(path, html, f"the report {path}")
