"""`cornet batch`: run a model over files, a table or a bucket."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from services.batch.job import Engine, JobOptions
from services.errors import CornetError, InvalidArgument, SignatureNotFound
from services.tensors import DEFAULT_SIGNATURE

batch_app = typer.Typer()

COULD_NOT_RUN, USAGE, ERROR_RATE_EXCEEDED, OUTPUT_DIFFERS = 1, 2, 3, 4
_INTERRUPTED = 128
_LINE_EVERY_S = 30.0


@batch_app.command("batch")
def batch(
    model: Annotated[str, typer.Argument(metavar="NAME[/VERSION]", help="The model; its latest version without one.")],
    input_: Annotated[
        str,
        typer.Option("--input", help="Folder or glob of pictures; CSV, JSONL or Parquet file or glob; path or URL."),
    ],
    output: Annotated[str, typer.Option(help="Folder or URL: rows/, errors.parquet and summary.json go there.")],
    repository: Annotated[
        Path, typer.Option(envvar="CORNET_REPOSITORY", help="Folder of <name>/<version>/ directories.")
    ] = Path("exported_models"),
    signature: Annotated[
        str, typer.Option(help="What of the model is run; one with inputs of its own reads columns of their names.")
    ] = DEFAULT_SIGNATURE,
    engine: Annotated[Engine, typer.Option(help="local: this machine. ray: a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster. Default: RAY_ADDRESS, else a local one.")
    ] = None,
    num_gpus_per_actor: Annotated[float, typer.Option(min=0, help="GPUs of each Ray actor; parts of one count.")] = 0.0,
    key: Annotated[str | None, typer.Option(help="Column that identifies a record. Default: the row number.")] = None,
    column: Annotated[str | None, typer.Option(help="Column that holds the picture, path, text or window.")] = None,
    batch_rows: Annotated[int, typer.Option(min=0, help="Rows of a run; 0: as the model's manifest says.")] = 0,
    shard_rows: Annotated[
        int, typer.Option(min=0, help="Records of an output file; 0: 1,024 pictures, 16,384 rows of a table.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Decoding processes; 0: a thread. Default: by input and machine.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first records.")] = None,
    max_error_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop where more records than this share are bad.")
    ] = None,
    providers: Annotated[str, typer.Option(help="ONNX Runtime execution providers, separated by commas.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Discard what the output holds of an earlier job.")] = False,
) -> None:
    """Run a model over files, a table or a bucket, to Parquet.

    The same command again does only what is missing. Bad records go to errors.parquet and do not stop the job.

    Exit status: 0 done; 1 could not run; 2 wrong usage; 3 more bad records than --max-error-rate; 4 the output is another
    job's (other model, input or options); 130 or 143 interrupted, and the same command continues.
    """
    from services.batch.driver import ErrorRateExceeded, OutputDiffers, execute

    options = JobOptions(
        model=model,
        input=input_,
        output=output,
        repository=repository,
        signature=signature,
        engine=engine,
        address=address,
        num_gpus_per_actor=num_gpus_per_actor,
        key=key,
        column=column,
        batch_rows=batch_rows,
        shard_rows=shard_rows,
        workers=workers,
        limit=limit,
        max_error_rate=max_error_rate,
        overwrite=overwrite,
        providers=tuple(name.strip() for name in providers.split(",") if name.strip()),
    )
    console = Console(stderr=True, highlight=False)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _progress(console) as progress:
            summary = execute(options, progress)
    except ErrorRateExceeded as error:
        sys.stdout.write(f"{error.summary}\n")
        _fail(console, str(error), ERROR_RATE_EXCEEDED)
    except OutputDiffers as error:
        _fail(console, str(error), OUTPUT_DIFFERS)
    except (InvalidArgument, SignatureNotFound) as error:
        _fail(console, str(error), USAGE)
    except (CornetError, OSError) as error:
        _fail(console, str(error), COULD_NOT_RUN)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        _fail(console, "interrupted; the same command continues where this one stopped.", _INTERRUPTED + number)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.stdout.write(f"{summary}\n")


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _fail(console: Console, message: str, status: int) -> NoReturn:
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(status)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int, int], None]]:
    """A bar with rate and time left on a terminal; elsewhere a line at the start and now and then."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[errors]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("planning", total=None, errors="")

        def update(done: int, errors: int, total: int) -> None:
            if bars.tasks[0].total is None:
                _started(bars.console, done, total)
                # `start` lets earlier runs count as done without counting as speed.
                bars.reset(task, total=total, completed=done, description="records")
            bars.update(task, completed=done, errors=f"{errors:,} bad" if errors else "")

        yield update


class _Rate(ProgressColumn):
    """Records a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


def _lines(console: Console) -> Callable[[int, int, int], None]:
    last = 0.0

    def update(done: int, errors: int, total: int) -> None:
        nonlocal last
        if not last:
            _started(console, done, total)
        elif monotonic() - last > _LINE_EVERY_S:
            console.print(f"{done:,} of {total:,} records, {errors:,} bad", soft_wrap=True)
        else:
            return
        last = monotonic()

    return update


def _started(console: Console, done: int, total: int) -> None:
    before = f", {done:,} of them done before, {total - done:,} to do" if done else ""
    console.print(f"{total:,} records{before}", soft_wrap=True)
