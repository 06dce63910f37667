"""`cornet tune`: search good options of a family, say which they are, and train with them where that is asked for."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.errors import InvalidArgument
from services.files import check_folder
from training.environment import plain_options, show_warnings
from training.interruption import interrupted
from training.options import FLAGS, FLAGS_HELP, options_of, parse, settings_of_flags
from training.pipeline import CommonOptions, Source
from training.publishing import check_name
from training.report import is_error, number
from training.runs import Identity
from training.tuning.space import FIXED, declared_axes, plain, settings_of, short, space_of
from training.tuning.study import Plan, Pruner, Study, Trial
from training.tuning.trial import LOSS

_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add `tune` to a command line."""
    app.command("tune", context_settings=FLAGS, epilog=FLAGS_HELP)(tune)


def tune(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="Model family; cornet train --list shows them.")],
    data: Annotated[
        Path | None, typer.Option(help="File or folder to train on; without it, the family's own data set.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict, by name or index.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option that all trials have; repeatable.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=LOW..HIGH",
            help="A range to search, as units=32..256, units=32..256x1..3 (one to three of them), "
            "learning_rate=1e-4..1e-2:log, or values, as 'activation=relu|gelu'; repeatable. "
            "Without any, every range the family declares.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of a study that is resumed included.")] = 20,
    objective: Annotated[
        str | None,
        typer.Option(help="Figure on validation rows, or val_loss; without it, the family's primary metric."),
    ] = None,
    pruner: Annotated[Pruner, typer.Option(help="Which trials are given up early.")] = Pruner.MEDIAN,
    name: Annotated[str | None, typer.Option(help="Name of the model; without it, the family's.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of studies and runs.")] = Path("runs"),
    repository: Annotated[
        Path, typer.Option(envvar="CORNET_REPOSITORY", help="Model repository that --train exports to.")
    ] = Path("exported_models"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the newest study of the same name.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Train with the best options and publish the model.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the options, and the ranges that are searched.")] = False,
) -> None:
    """Search a family's options by trials that are judged on validation rows; the test part is never looked at.

    Each trial is a whole training. The first has the options as they are, so that the table shows what tuning brought. A
    trial that fails or diverges is recorded and does not end the study; an interrupted study goes on with --resume.
    """
    from training.pipelines import find

    pipeline = find(family)
    console = Console(highlight=False)
    if list_:
        console.print(_options(pipeline.options))
        return
    fixed = [*(settings or []), *settings_of_flags(context.args)]
    base: CommonOptions = parse(pipeline.options, fixed)
    pipeline = pipeline.chosen(base)
    axes = space_of(base, search or [])
    chosen = objective or pipeline.primary_metric
    show_warnings(console)
    model = name or pipeline.family
    check_name(model)
    source = Source(data, target)
    check_folder(runs / model, f"the folder of studies {runs}")
    if train:
        check_folder(repository / model, f"the model repository {repository}")
    weights = pipeline.base_weights(base)
    loaded = pipeline.load(source, base)
    plan = Plan(pipeline, base, source, axes, chosen, is_error(chosen), pruner)
    searched = {f"--search {key}": value for key, value in plain(axes).items()}
    asked = {**plain_options(base), **searched, "--objective": chosen, "--pruner": pruner.value}
    identity = Identity(pipeline.family, model, asked, loaded.name, loaded.sha256, target, weights)
    study = Study.resume(runs, identity, plan) if resume else Study.start(runs, identity, plan)
    console.print(
        f"{pipeline.family} on {loaded.name}: {chosen} on validation rows, {trials} trials over", soft_wrap=True
    )
    for key, value in plain(axes).items():
        console.print(f"  {key} {escape(value)}", soft_wrap=True)
    _run(study, trials, console)
    console.print(_table(study))
    console.print(f"report   {study.report}", soft_wrap=True)
    best = study.best()
    words = ["cornet", "train", pipeline.family, *_flags(data, target, name, fixed)]
    for key, value in settings_of(best.options or base, axes).items():
        words += ["--set", f"{key}={value}"]
    console.print(f"train it {escape(shlex.join(words))}", soft_wrap=True)
    if train:
        from training.runner import Interrupted, Job
        from training.runner import train as run

        try:
            run(Job(pipeline, best.options or base, source, model, repository, runs), console)
        except Interrupted as stopped:
            raise interrupted(f"{stopped} Give it to the cornet train above.") from None


def _run(study: Study, trials: int, console: Console) -> None:
    """Run what is missing, a line per trial, the report after each."""
    from training.tuning.report import write_report

    count = len(study.finished())
    if count:
        console.print(f"{count} of {trials} trials are done: {study.directory}", soft_wrap=True)
    try:
        with console.status(f"trial {count + 1} of {trials}") as status:
            for trial in study.run(trials):
                count += 1
                console.print(_line(trial), soft_wrap=True)
                write_report(study)
                status.update(f"trial {count + 1} of {trials}")
    except KeyboardInterrupt:
        text = f"Interrupted after {count} of {trials} trials; --resume continues {study.directory}."
        raise interrupted(text) from None
    if count == 0:
        raise InvalidArgument(f"--trials: expected at least one. Received: {trials}.")
    write_report(study)


def _line(trial: Trial) -> str:
    what = {"done": number(trial.value or 0.0), "failed": f"[red]failed:[/] {escape(trial.error)}"}.get(
        trial.state, "given up"
    )
    return f"  trial {trial.number}: {what}  ({trial.epochs} epochs, {trial.seconds:.1f} s)"


def _options(options_type: type[CommonOptions]) -> Table:
    table = Table("option", "type", "default", "searched", title="Options and their ranges", title_justify="left")
    searched = plain(declared_axes(options_type))
    for option in options_of(options_type):
        if option.name not in FIXED:
            cells = (option.type_text, option.default_text, searched.get(option.name, ""))
            table.add_row(option.name, *map(escape, cells))
    return table


def _table(study: Study) -> Table:
    """The best trials side by side: their figures, then the options they had."""
    plan, best = study.plan, study.ranked()[:_SHOWN]
    table = Table(title=f"The best trials by {plan.objective} on validation rows", title_justify="left")
    table.add_column("trial")
    for trial in best:
        table.add_column(str(trial.number), justify="right")
    for name in dict.fromkeys((plan.objective, LOSS)):
        table.add_row(f"[bold]{name}[/]", *(number(trial.metrics[name]) for trial in best))
    settings = [settings_of(trial.options or plan.base, plan.axes) for trial in best]
    for axis in plan.axes:
        table.add_row(axis.name, *(escape(short(values[axis.name])) for values in settings))
    return table


def _flags(data: Path | None, target: str | None, name: str | None, settings: list[str]) -> list[str]:
    given = {"--data": data, "--target": target, "--name": name}
    words = [word for key, value in given.items() if value is not None for word in (key, str(value))]
    return [*words, *(word for setting in settings for word in ("--set", setting))]
