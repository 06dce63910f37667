"""`cornet compare`: published versions of one task beside each other. It takes TensorFlow only for a judge that does."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def register(app: typer.Typer) -> None:
    """Add `compare` to a command line."""
    app.command("compare")(compare)


def compare(
    versions: Annotated[
        list[str], typer.Argument(metavar="NAME[/VERSION]...", help="What to compare; the latest version without one.")
    ],
    repository: Annotated[
        Path, typer.Option(envvar="CORNET_REPOSITORY", help="Folder of <name>/<version>/ directories.")
    ] = Path("exported_models"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="The file or folder they were trained on (its held-out rows are used), or one that none of them has "
            "seen (all rows are); without it, the family's own data set."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column to predict, as in training; without it, the one recorded then.")
    ] = None,
    html: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("comparison.html"),
    json_: Annotated[Path | None, typer.Option("--json", help="Where all figures go as JSON.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time to measure latency for, over all versions.")] = 10.0,
    runs: Annotated[Path, typer.Option(help="Folder of the training runs: epochs and time of fitting.")] = Path("runs"),
) -> None:
    """Compare versions of one task on the same rows: metrics, sizes, and latency as they are served.

    The rows are those that all versions held out: they must have been trained on the same data, cut alike. Each encodes
    the rows in its own way, and answers through the engine that serves it. A paired bootstrap says which differences from
    the best may be the chance of which rows were held out.
    """
    from services.files import check_writable
    from training.comparison.candidates import select
    from training.comparison.judge import judge
    from training.comparison.measure import measure
    from training.comparison.plots import plots_of
    from training.comparison.report import write_report
    from training.comparison.result import compare as put_together
    from training.comparison.result import write_json
    from training.comparison.rows import rows_for
    from training.comparison.table import print_comparison
    from training.environment import show_warnings

    console = Console(highlight=False)
    show_warnings(console)
    candidates = select(repository, versions)
    for path, what in ((html, f"the report {html}"), (json_, f"the figures {json_}")):
        if path is not None:
            check_writable(path, what, make_folder=True)
    with console.status("reading the rows") as status:
        rows = rows_for(candidates, data, target)
        status.update("measuring answers and latency")
        measured = measure(candidates, rows.examples, seconds)
        status.update("judging the differences")
        outputs = [each.outputs for each in measured]
        judgement = judge(candidates, outputs, rows.examples)
        comparison = put_together(candidates, rows, measured, judgement, runs)
    print_comparison(console, comparison)
    write_report(html, comparison, plots_of(comparison, candidates, outputs))
    console.print(f"report   {escape(str(html))}", soft_wrap=True)
    if json_ is not None:
        write_json(json_, comparison)
        console.print(f"figures  {escape(str(json_))}", soft_wrap=True)
