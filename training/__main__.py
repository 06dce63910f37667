"""`cornet train`: the command, and `python -m training` for the same without the rest of cornet.

Keras is imported when a run starts, and not before: help and errors of the command line are quick.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.errors import CornetError, InvalidArgument
from training.comparison.command import register as register_compare
from training.foreign import register as register_export
from training.interruption import interrupted
from training.options import FLAGS, FLAGS_HELP, options_of, parse, settings_of_flags
from training.pipeline import CommonOptions, Pipeline, Source
from training.precision.command import register as register_convert
from training.precision.options import MostLossOption, PrecisionOption, Quantization, QuantizationOption, VariantOptions
from training.synthesize_command import register as register_synthesize
from training.tuning.command import register as register_tune


def register(app: typer.Typer) -> None:
    """Add `train`, `tune`, `export`, `convert`, `compare` and `synthesize` to a command line."""
    register_export(app)
    register_convert(app)
    register_compare(app)
    register_synthesize(app)
    register_tune(app)
    app.command("train", context_settings=FLAGS, epilog=FLAGS_HELP)(train)


def train(
    context: typer.Context,
    family: Annotated[str | None, typer.Argument(help="Model family; --list shows them.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="File or folder to train on; without it, the family's own data set, which needs no network."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Column to predict, by name or index; folder: where the files of a batch job over pictures lay."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set an option of the family; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs to train; short for --set epochs=N.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run; short for --set seed=N.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; without it, the family's.")] = None,
    repository: Annotated[Path, typer.Option(envvar="CORNET_REPOSITORY", help="Model repository to export to.")] = Path(
        "exported_models"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints, TensorBoard logs and reports.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest interrupted run of the same name.")
    ] = False,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Look into the network while it learns, and say what is wrong with it.")
    ] = False,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Suggest a learning rate from a short sweep; trains and publishes nothing."),
    ] = False,
    precision: PrecisionOption = None,
    quantization: QuantizationOption = Quantization.AUTO,
    most_loss: MostLossOption = 0.01,
    list_: Annotated[bool, typer.Option("--list", help="Show the families, or the options of a family.")] = False,
) -> None:
    """Train a model of a family, prove its export and publish it.

    The data is split before anything is fitted, and the figures shown are those of the exported model on held-out rows,
    beside a baseline's. With --precision, the exit status is 1 where a variant was refused; the model itself is published.
    """
    from training.pipelines import find, pipelines

    console = Console(highlight=False)
    if family is None:
        if not list_:
            raise InvalidArgument(f"Expected a family: one of {', '.join(pipelines())}. Received: none.")
        console.print(_families(pipelines()))
        return
    pipeline = find(family)
    if list_:
        console.print(_options(pipeline))
        return
    flags = {"epochs": epochs, "seed": seed}
    assignments = [f"{key}={value}" for key, value in flags.items() if value is not None]
    options = parse(pipeline.options, [*(settings or []), *assignments, *settings_of_flags(context.args)])

    from training.environment import show_warnings
    from training.precision.variants import check_published
    from training.runner import Interrupted, Job
    from training.runner import train as run

    show_warnings(console)
    source = Source(data, target)
    name = name or pipeline.family
    if find_lr:
        given = {"--resume": resume, "--diagnose": diagnose, "--precision": bool(precision)}
        _search(pipeline, options, source, runs / name, [flag for flag, there in given.items() if there], console)
        return
    variants = VariantOptions(tuple(precision or ()), quantization, most_loss)
    job = Job(pipeline, options, source, name, repository, runs, resume, variants, diagnose)
    try:
        outcome = run(job, console)
    except Interrupted as stopped:
        raise interrupted(str(stopped)) from None
    check_published(outcome.variants)


def _search(
    pipeline: Pipeline, options: CommonOptions, source: Source, runs: Path, contradicting: list[str], console: Console
) -> None:
    """`--find-lr`: sweep, suggest, and write the plot down."""
    if contradicting:
        raise InvalidArgument(
            f"Expected --find-lr without {' and '.join(contradicting)}: it trains nothing that is kept. Received: both."
        )
    from training.learning_rate import find_learning_rate

    find_learning_rate(pipeline, options, source, runs, console)


def _families(known: dict[str, Pipeline]) -> Table:
    table = Table("family", "task", "what it is")
    for pipeline in known.values():
        table.add_row(pipeline.family, pipeline.task.replace("_", " "), pipeline.summary)
    return table


def _options(pipeline: Pipeline) -> Table:
    table = Table("option", "type", "default", "meaning", title=pipeline.summary, title_justify="left")
    for option in options_of(pipeline.options):
        table.add_row(option.name, escape(option.type_text), escape(option.default_text), escape(option.help))
    return table


def main() -> None:
    """`python -m training`: a CornetError becomes one line on standard error and exit status 1."""
    app = typer.Typer(
        help="Train cornet's model families.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    register(app)
    app.callback()(lambda: None)
    try:
        app()
    except CornetError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
