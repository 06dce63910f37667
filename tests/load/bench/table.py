"""The tables a run ends with."""

import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from tests.load.bench.cells import Results, summary
from tests.load.bench.targets import MB, Extras, Verdict

_OUTCOMES = {True: "[green]reached[/]", False: "[red]not reached[/]", None: "[dim]not measured[/]"}


def figures_table(results: Results) -> Table:
    """Medians over the rounds, one line per cell; servers of the same cell stand together."""
    table = Table(title="Medians of the rounds", title_justify="left")
    for name in ("model", "protocol", "generator", "at once", "server"):
        table.add_column(name, no_wrap=True)
    for name in (
        "requests/s",
        "p50 ms",
        "p99 ms",
        "server CPU us",
        "requests/CPU s",
        "RSS MB",
        "errors",
        "others",
        "generator",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    order = sorted(results.samples, key=lambda cell: (cell.model, cell.protocol, cell.generator, cell.concurrency))
    before = None
    for cell in order:
        group = (cell.model, cell.protocol, cell.generator, cell.concurrency)
        if before not in {None, group}:
            table.add_section()
        before = group
        value = summary(results.samples[cell])
        table.add_row(
            cell.model,
            cell.protocol,
            cell.generator,
            str(cell.concurrency),
            cell.server,
            f"{value['per_second']:,.0f}" if value["per_second"] >= 100 else f"{value['per_second']:.1f}",
            f"{value['p50_ms']:.3f}",
            f"{value['p99_ms']:.3f}",
            f"{value['cpu_us']:,.1f}",
            f"{1e6 / value['cpu_us']:,.0f}" if value["cpu_us"] else "-",
            f"{value['rss_bytes'] / MB:.0f}" if value["rss_bytes"] else "-",
            f"{value['errors']:.0f}",
            f"{value['foreign']:.0%}",
            f"{value['generator_share']:.0%}" if value["generator_share"] else "-",
        )
    return table


def starts_table(extras: Extras) -> Table:
    table = Table(title="Start and memory with the mlp", title_justify="left")
    for name in ("server", "first right answer s (median)", "RSS MB"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for name, seconds in extras.cold_s.items():
        rss = extras.rss_bytes.get(name)
        table.add_row(name, f"{sorted(seconds)[len(seconds) // 2]:.2f}", f"{rss / MB:.0f}" if rss else "-")
    return table


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Where it must get to", title_justify="left")
    table.add_column("ratio")
    for name in ("asked", "measured", "by server CPU"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for verdict in verdicts:
        sign = "≥" if verdict.at_least else "≤"
        measured = "-" if math.isnan(verdict.measured) else f"{verdict.measured:.2f}{verdict.unit}"
        asked = "-" if math.isnan(verdict.bound) else f"{sign} {verdict.bound:g}{verdict.unit}"
        outcome = "" if math.isnan(verdict.bound) else _OUTCOMES[verdict.reached]
        by_cpu = "" if math.isnan(verdict.by_cpu) else f"{verdict.by_cpu:.2f}{verdict.unit}"
        table.add_row(verdict.text, asked, measured, by_cpu, outcome)
    return table


def show(tables: Iterable[Table]) -> None:
    console = Console(width=172)
    for table in tables:
        if table.row_count:
            console.print(table)
