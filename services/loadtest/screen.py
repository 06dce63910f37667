"""A load test's figures on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.loadtest.result import label

_WIDTH_OF_PIPES = 160


def console() -> Console:
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH_OF_PIPES)


def progress(step: Mapping[str, Any]) -> None:
    """One line when a step has ended."""
    p99 = step["latency_ms"]["p99"]
    latency = "no good answer" if p99 is None else f"p50 {step['latency_ms']['p50']:.2f} ms, p99 {p99:.2f} ms"
    mark = "[red]over the limits[/]" if step["broken"] else "[green]done[/]"
    console().print(f"{escape(label(step)):>16}  {step['ok_per_s']:.0f}/s, {latency}  {mark}")


def print_result(result: Mapping[str, Any]) -> None:
    """The table of steps, what was broken, and what else a reader must know."""
    out = console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("load", "ok/s", "errors", "p50 ms", "p90 ms", "p99 ms", "max ms", "queue ms", "compute ms", "client"):
        table.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for step in result["steps"]:
        latency = [_number(step["latency_ms"][name]) for name in ("p50", "p90", "p99", "max")]
        phases = (step["server"] or {"phases": {}})["phases"]
        server = [_number(phases.get(name, {}).get("mean_ms")) for name in ("queue", "compute")]
        errors = ", ".join(f"{code} {count}" for code, count in step["errors"].items()) or "0"
        client = f"{step['client']['cpu_cores']:.0%}"
        table.add_row(escape(label(step)), f"{step['ok_per_s']:.1f}", escape(errors), *latency, *server, client)
    out.print(table)
    for step in result["steps"]:
        for problem in step["broken"]:
            out.print(f"[bold red]over[/] {escape(label(step))}: {escape(problem)}", soft_wrap=True)
        if step.get("unfinished"):
            out.print(f"[yellow]interrupted[/] {escape(label(step))}: {step['unfinished']} requests had no answer yet")
        for code, text in step["error_examples"].items():
            out.print(f"[red]{escape(code)}[/] {escape(text)}", soft_wrap=True)
        if step["client"]["limited"]:
            out.print(f"[yellow]client limit[/] {escape(label(step))}: {step['client']['limited']}", soft_wrap=True)
    notes = {step["client"]["note"]: None for step in result["steps"][-1:] if step["client"]["note"]}
    for note in notes:
        out.print(f"[yellow]note[/] {note}", soft_wrap=True)
    if result["search"]:
        out.print(_found(result["search"]), soft_wrap=True)


def print_comparison(comparison: Mapping[str, Any]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("load")
    for name in ("ok/s", "ratio", "p50 ms", "ratio", "p99 ms", "ratio", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison["loads"]:
        cells = []
        for figure in ("ok_per_s", "p50_ms", "p99_ms"):
            pair = row[figure]
            cells += [f"{_number(pair['first'])} → {_number(pair['second'])}", _ratio(pair["ratio"])]
        errors = row["error_rate"]
        table.add_row(escape(row["load"]), *cells, f"{errors['first']:.2%} → {errors['second']:.2%}")
    console().print(table)
    for difference in comparison["differences"]:
        console().print(f"[yellow]not alike[/] {escape(difference)}", soft_wrap=True)


def _found(search: Mapping[str, Any]) -> str:
    unit = "callers" if search["unit"] == "concurrency" else "requests/s"
    if search["best"] is None:
        return "[bold red]no load kept the limits[/]"
    until = "no load tried broke them" if search["failed"] is None else f"{search['failed']:g} broke them"
    text = f"[bold green]most within the limits: {search['best']:g} {unit}[/] ({search['ok_per_s']:.0f}/s; {until})"
    return text + (
        f"\n[yellow]the client, not the server:[/] {search['client_limited']}" * bool(search["client_limited"])
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"x{value:.2f}"
