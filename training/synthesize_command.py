"""`cornet synthesize`: draw new rows of a rare class of a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from services.errors import InvalidArgument
from services.files import check_writable, replacing, writing
from training.options import parse

if TYPE_CHECKING:
    import pandas as pd

    from training.datasets.cells import Columns
    from training.datasets.tables import Table
    from training.synthesis import SynthesisOptions

_SUFFIXES = (".csv", ".parquet")


def register(app: typer.Typer) -> None:
    """Add `synthesize` to a command line."""
    app.command("synthesize")(synthesize)


def synthesize(
    data: Annotated[Path, typer.Argument(help="Table to learn from: CSV, TSV, Parquet or NPZ.")],
    label: Annotated[str, typer.Option("--class", help="The class to draw rows of.")],
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")],
    output: Annotated[Path, typer.Option(help="File to write, .csv or .parquet.")],
    target: Annotated[str | None, typer.Option(help="Column of the class, by name or index.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the machine; repeatable.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the machine and of the rows; short for --set seed=N.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Draw new rows of one class, from a restricted Boltzmann machine that has learnt the rows of that class.

    The file has the columns and units of the table, the class's among them; the same seed gives the same rows. The last line
    says how near they are to the real ones. Judge them by what they are for: train with and without them, and compare on
    held-out rows that no drawn row was learnt from.
    """
    from rich.console import Console
    from rich.markup import escape

    from training import synthesis
    from training.datasets.tables import load_table
    from training.pipeline import Source

    if output.suffix not in _SUFFIXES:
        raise InvalidArgument(f"Expected --output to end in {' or '.join(_SUFFIXES)}. Received: {output}.")
    if output.exists() and not overwrite:
        raise InvalidArgument(f"Expected a file that is not there, or --overwrite. Received: {output}.")
    if output.is_dir():
        raise InvalidArgument(f"Expected --output to be a file. Received: the folder {output}.")
    check_writable(output)
    options = parse(synthesis.SynthesisOptions, [*(settings or []), *([f"seed={seed}"] if seed is not None else [])])
    table = load_table(Source(data, target), "class", **options.reading).data
    console = Console(highlight=False)
    with console.status(f"learning and drawing {label}"):
        drawn = synthesis.synthesize(table, label, rows=rows, options=options)
    _write(output, _frame(data, table, label, drawn, options))
    console.print(f"wrote {rows:,} rows of {escape(label)} to {escape(str(output))}", soft_wrap=True)
    found = synthesis.likeness(table, label, drawn)
    console.print(
        f"beside the real ones: means {found.mean_shift:.2g} spreads apart, spread {found.spread_ratio:.2f} times theirs, "
        f"correlations {found.correlation_shift:.2g} apart, {found.copies:.1%} copies",
        soft_wrap=True,
    )


def _frame(path: Path, table: "Table", label: str, drawn: "Columns", options: "SynthesisOptions") -> "pd.DataFrame":
    """The drawn rows in the file's order of columns, its target among them; columns that were left out stay out."""
    import pandas as pd

    from training.datasets.cells import read_columns

    count = len(next(iter(drawn.values())))
    row = int(np.flatnonzero(table.target == table.labels.index(label))[0])
    columns: dict[str, Any] = {}
    for name, values in read_columns(path, options.categorical, options.drop)[0].items():
        if name in drawn:
            columns[name] = drawn[name]
        else:  # the target, and columns that hold the same in every row
            cell = values[row]
            columns[name] = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell] * count
    return pd.DataFrame(columns)


def _write(path: Path, frame: "pd.DataFrame") -> None:
    """Whole or not at all. Raises FailedPrecondition or ResourceExhausted where it cannot be."""
    with writing(str(path)), replacing(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, float_format="%.7g")
        else:
            frame.to_parquet(temporary, index=False)
