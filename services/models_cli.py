"""`cornet models`: what is in a repository, and `cornet models verify`: whether it still answers as it did."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.engine.verification import Verification, VersionRow, list_versions, select, verify
from services.tensors import DEFAULT_SIGNATURE

models_app = typer.Typer(
    name="models",
    help="List the models of a repository, or verify them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Repository = Annotated[
    Path | None,
    typer.Option(envvar="CORNET_REPOSITORY", help="Folder of <name>/<version>/ directories. Default: exported_models."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_DEFAULT_REPOSITORY = Path("exported_models")
_WIDTH_OF_PIPES = 160
"""Columns where no terminal says its own: nothing is cut off in a log."""


@models_app.callback(invoke_without_command=True)
def list_models(context: typer.Context, repository: _Repository = None, json_: _Json = False) -> None:
    """List the models of a repository: versions, family, size, metric beside the baseline's, further signatures, formats."""
    context.obj = repository or _DEFAULT_REPOSITORY
    if context.invoked_subcommand is not None:
        return
    rows = list_versions(context.obj)
    if json_:
        _print_json([_plain_row(row) for row in rows])
    elif not rows:
        _console().print(f"no models in {escape(str(context.obj))}", soft_wrap=True)
    else:
        _console().print(_models_table(rows))


@models_app.command("verify")
def verify_models(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="[NAME[/VERSION]]", help="What to verify; all without it.")
    ] = None,
    repository: _Repository = None,
    saved_model: Annotated[
        bool, typer.Option("--saved-model", help="Run the SavedModels too; takes TensorFlow.")
    ] = False,
    json_: _Json = False,
) -> None:
    """Compare every file with its recorded hash and run the stored held-out rows again.

    The exit status is 1 where anything differs.
    """
    rows = select(list_versions(repository or context.obj), target)
    results = [verify(row.path, saved_model=saved_model) for row in rows]
    if json_:
        _print_json([_plain_result(result) for result in results])
    else:
        for result in results:
            _console().print(_verdict(result), soft_wrap=True)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_OF_PIPES)


def _models_table(rows: list[VersionRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "version", "family", "metric", "baseline", "signatures", "formats", "size", "created"):
        table.add_column(column, no_wrap=column in {"model", "metric", "size"})
    for row in rows:
        metric = next(iter(row.metrics), "")
        table.add_row(
            *map(escape, (row.name, str(row.version), row.family)),
            escape(f"{metric} {row.metrics[metric]:.4g}" if metric else ""),
            f"{row.baseline[metric]:.4g}" if metric in row.baseline else "",
            escape(_signatures(row)),
            escape(", ".join(row.formats)),
            _size(row.size),
            escape(row.created[:16].replace("T", " ")) if row.usable else f"[red]{escape(row.status)}[/]",
        )
    return table


def _signatures(row: VersionRow) -> str:
    """The further signatures: `serving_default` goes without saying."""
    return ", ".join(name for name in row.signatures if name != DEFAULT_SIGNATURE)


def _verdict(result: Verification) -> str:
    title = f"{escape(result.name)}/{result.version}"
    if not result.ok:
        return "\n".join(f"[bold red]failed[/] {title}: {escape(problem)}" for problem in result.problems)
    parts = [f"{result.files} files"] if result.files else []
    for format_ in dict.fromkeys(record.format for record in result.parity):
        records = [record for record in result.parity if record.format == format_]
        worst = max(record.max_abs for record in records)
        parts.append(f"{format_} on {records[0].samples} rows, max abs {worst:.2g}")
    parts += [escape(note) for note in result.notes]
    return f"[green]ok[/]     {title}: {'; '.join(parts)}"


def _plain_row(row: VersionRow) -> dict[str, Any]:
    return {**asdict(row), "path": str(row.path), "usable": row.usable}


def _plain_result(result: Verification) -> dict[str, Any]:
    return {**asdict(result), "path": str(result.path), "ok": result.ok}


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _size(size: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    value, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
