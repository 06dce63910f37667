"""What the variants came to, for the terminal and the HTML report: one column each, float32's figure before theirs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.tensors import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from training.precision.variants import Outcome


def variant_table(outcomes: "Sequence[Outcome]") -> dict[str, list[str]]:
    """Cells by row title, one per outcome; '' where a variant was refused before that figure was taken."""
    columns = [_figures(outcome) for outcome in outcomes]
    titles = dict.fromkeys(title for column in columns for title in column)
    return {title: [column.get(title, "") for column in columns] for title in titles}


def print_variants(console: Console, outcomes: "Sequence[Outcome]") -> None:
    """The table on the terminal, and below it in red why a variant was refused. Prints nothing where none was asked for."""
    if not outcomes:
        return
    table = Table(
        "", *(escape(o.name) for o in outcomes), title="other precisions: fp32 > variant", title_justify="left"
    )
    for title, cells in variant_table(outcomes).items():
        table.add_row(escape(title), *map(escape, cells))
    console.print(table)
    for outcome in outcomes:
        if outcome.exported is None:
            console.print(f"[red]{escape(outcome.name)} is not published:[/] {escape(outcome.refusal)}", soft_wrap=True)


def _figures(outcome: "Outcome") -> dict[str, str]:
    variant, published = (
        outcome.variant,
        "refused" if outcome.exported is None else f"version {outcome.exported.version}",
    )
    if variant is None:
        return {"published": published}
    cells = {
        "published": published,
        "made by": variant.method,
        "converted": _counts(variant.converted),
        "of these kinds left in fp32": _counts(variant.kept) or "none",
        "bytes": f"{variant.source_bytes:,} > {variant.bytes:,}",
    }
    if variant.calibration_rows:
        cells["calibrated on"] = f"{variant.calibration_rows} {variant.calibration_source}"
    for record in outcome.parity:
        distance = f"nrmse {record.nrmse:.2g}" if record.nrmse_limit else f"max abs {record.max_abs:.2g}"
        decisions = f", {record.agreement:.1%} equal decisions" if record.agreement < 1.0 else ""
        output = record.output if record.signature == DEFAULT_SIGNATURE else f"{record.signature}: {record.output}"
        cells[f"{output}, {record.samples} rows"] = distance + decisions
    if variant.metric_source is not None and variant.metric_variant is not None:
        cells[f"{variant.metric} on all held-out rows"] = f"{variant.metric_source:.4g} > {variant.metric_variant:.4g}"
    for timing in variant.latency:
        rows = "1 row" if timing.rows == 1 else f"{timing.rows} rows"
        cells[f"CPU time of {rows}, us"] = f"{timing.source_us:,.0f} > {timing.variant_us:,.0f}"
    return cells


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
