"""The figures of a comparison as rows of text, for the terminal and the report alike, the best of each row marked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.comparison.judge import CONFIDENCE
from training.comparison.measure import CONCURRENCY
from training.comparison.result import Comparison, Entry
from training.options import value_text
from training.report import is_error, number


@dataclass(frozen=True)
class Line:
    """One figure of all versions. `best` holds the indices of the best ones, nothing where none is better than the rest."""

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    primary: bool = False


def lines_of(comparison: Comparison) -> list[Line]:
    """Metrics, primary first and with what of it may be chance, then sizes, latencies, and how each was trained."""
    entries, metric = comparison.entries, comparison.metric
    names = sorted(dict.fromkeys(name for entry in entries for name in entry.metrics), key=lambda name: name != metric)
    lines = []
    for name in names:
        values = [entry.metrics.get(name) for entry in entries]
        lines.append(_line(name, values, number, smaller=is_error(name), primary=name == metric))
        if name == metric and comparison.resamples:
            lines.append(Line("difference from the best", tuple(_difference(entry) for entry in entries)))
    lines += [
        _line("parameters", [entry.parameters for entry in entries], lambda value: f"{value:,.0f}"),
        _line("ONNX", [entry.onnx_bytes for entry in entries], _bytes),
        _line("SavedModel", [entry.saved_model_bytes for entry in entries], _bytes),
    ]
    for count in CONCURRENCY:
        of = "one row" if count == 1 else f"{count} at a time"
        for title, figure in (("median", "p50_ms"), ("p99", "p99_ms")):
            values = [getattr(entry.latency(count), figure) for entry in entries]
            lines.append(_line(f"{title} ms, {of}", values, lambda value: f"{value:.3g}"))
    most = CONCURRENCY[-1]
    rates = [entry.latency(most).rows_per_s for entry in entries]
    lines.append(_line(f"rows per second, {most} at a time", rates, lambda value: f"{value:,.0f}", smaller=False))
    lines += [
        Line("epochs", tuple(str(entry.trained.epochs) if entry.trained else "" for entry in entries)),
        _line(
            "seconds of fitting",
            [entry.trained.seconds if entry.trained else None for entry in entries],
            lambda value: f"{value:.1f}",
        ),
        Line("precision", tuple(entry.precision for entry in entries)),
        Line("options", tuple(_options(entry) for entry in entries)),
    ]
    return [line for line in lines if any(line.cells)]


def summary(comparison: Comparison) -> list[str]:
    """What the figures say, in sentences: the best, and what cannot be told from it."""
    entries, metric = comparison.entries, comparison.metric
    best = entries[comparison.best]
    sentences = [f"{best.title} has the best {metric}, {number(best.metrics[metric])}."]
    if not comparison.resamples:
        return [*sentences, "Which differences may be chance cannot be said from these rows."]
    alike = [entry.title for entry in entries if entry.difference is not None and entry.difference.chance]
    worse = [entry.title for entry in entries if entry.difference is not None and not entry.difference.chance]
    if alike:
        sentences.append(
            f"{_joined(alike)} cannot be told from it by these rows: zero lies within the {CONFIDENCE:.0%} interval of "
            "the difference."
        )
    if worse:
        sentences.append(f"{_joined(worse)} {'is' if len(worse) == 1 else 'are'} worse by more than chance.")
    for baseline in comparison.rows.baselines:
        value = baseline.metrics.get(metric)
        if value is not None:
            sentences.append(f"The baseline ({baseline.name}) has {number(value)}.")
    return sentences


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The table, the best figures green, and the sentences below it."""
    table = Table(title=title_of(comparison), title_justify="left")
    table.add_column("")
    for entry in comparison.entries:
        table.add_column(escape(entry.title), justify="right")
    for line in lines_of(comparison):
        cells = [
            f"[green]{escape(cell)}[/]" if index in line.best else escape(cell) for index, cell in enumerate(line.cells)
        ]
        table.add_row(f"[bold]{escape(line.title)}[/]" if line.primary else escape(line.title), *cells)
    console.print(table)
    for sentence in summary(comparison):
        console.print(escape(sentence), soft_wrap=True)


def title_of(comparison: Comparison) -> str:
    """Task, rows and data."""
    rows = comparison.rows
    which = "rows new to all of them" if rows.fresh else "rows held out by all of them"
    return f"{comparison.task.replace('_', ' ')} on {len(rows)} {which}: {rows.name}"


def _line(
    title: str,
    values: Sequence[float | None],
    text: Callable[[float], str],
    *,
    smaller: bool = True,
    primary: bool = False,
) -> Line:
    known = [value for value in values if value is not None]
    best: frozenset[int] = frozenset()
    if len(set(known)) > 1:
        wanted = min(known) if smaller else max(known)
        best = frozenset(index for index, value in enumerate(values) if value == wanted)
    return Line(title, tuple("" if value is None else text(value) for value in values), best, primary)


def _joined(titles: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(titles[:-1]), titles[-1]) if part)


def _difference(entry: Entry) -> str:
    difference = entry.difference
    if difference is None:
        return "best"
    interval = f"{difference.value:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]"
    return f"{interval} chance?" if difference.chance else interval


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.2f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


def _options(entry: Entry) -> str:
    return " ".join(f"{name}={value_text(value)}" for name, value in entry.changed.items())
