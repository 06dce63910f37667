"""`cornet`: the command line.

Commands that train live in `training`, which this package never imports: they are found through the entry point group
`cornet.commands`.
"""

import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from services.errors import CornetError

app = typer.Typer(
    name="cornet",
    help="Keras models from fit to a production endpoint: train, prove the export, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAIN_PACKAGES = (
    *("tensorflow", "keras", "tf2onnx", "onnx"),
    *("pandas", "sklearn", "statsmodels"),
)
_EXTRAS = {
    "onnxruntime": "cpu",
    **dict.fromkeys(_TRAIN_PACKAGES, "train"),
    **dict.fromkeys(("fsspec", "gcsfs", "pyarrow", "ray", "s3fs"), "batch"),
    **dict.fromkeys(("matplotlib", "jinja2"), "load"),  # training has them too, and misses others first
}
"""Which extra brings a package that a command may miss."""

_COMMANDS = {
    "batch": "services.batch.command:batch_app",
    "models": "services.models_cli:models_app",
    "loadtest": "services.loadtest.command:loadtest_app",
}
"""Groups of commands by name, and where their typer application is: imported only where it is asked for."""


@app.command()
def version() -> None:
    """Print the version of cornet."""
    from services.server_info import ServerInfo

    sys.stdout.write(f"{ServerInfo().version}\n")


@app.command()
def serve(
    repository: Annotated[
        Path | None, typer.Option(help="Folder of <name>/<version>/ directories. Default: exported_models.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="A models.toml that lists the models to serve. Default: all in the repository.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC; 0 picks a free one. Default: 8500.")] = None,
    grpc_transport: Annotated[
        str | None, typer.Option(help="What carries gRPC: native or grpcio. Default: native.")
    ] = None,
    grpc_socket: Annotated[
        Path | None, typer.Option(help="A unix socket that gRPC listens on as well. Default: none.")
    ] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of HTTP; 0 picks a free one. Default: 8501.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share both ports. Default: 1.")] = None,
    typed_endpoints: Annotated[
        bool | None,
        typer.Option("--typed-endpoints/--no-typed-endpoints", help="Serve the BentoML endpoints and docs page."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json. Default: console.")] = None,
    request_log: Annotated[
        Path | None, typer.Option(help="Folder that requests are logged to. Default: they are not.")
    ] = None,
) -> None:
    """Serve the models of a repository over gRPC and HTTP until SIGTERM or Ctrl-C.

    Every option, and more, can be given as CORNET_<NAME> in the environment; the README lists them.
    """
    from services.settings import read_settings

    settings = read_settings(
        repository=repository,
        models_file=models,
        host=host,
        grpc_port=grpc_port,
        grpc_transport=grpc_transport,
        grpc_socket=grpc_socket,
        http_port=http_port,
        workers=workers,
        typed_endpoints=typed_endpoints,
        log_format=log_format,
        request_log=request_log,
    )
    if settings.workers > 1:
        from services.workers.start import supervise

        supervise(settings)

    from services.app import run

    run(settings)


def main() -> None:
    """Run the command line; a CornetError becomes one line on standard error and exit status 1."""
    try:
        _add_commands(sys.argv[1:])
        app()
    except CornetError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name.partition(".")[0]]
        _fail(
            f"this command needs {error.name}, which is not installed. Install it with: pip install 'cornet[{extra}]'"
        )


def _add_commands(arguments: list[str]) -> None:
    """Add the commands that live elsewhere, unless one of this module is asked for: a server imports nothing it lacks."""
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    if wanted in {"serve", "version"}:
        return
    for name in [wanted] if wanted in _COMMANDS else _COMMANDS:
        module, _, attribute = _COMMANDS[name].partition(":")
        app.add_typer(getattr(import_module(module), attribute))
    if wanted not in _COMMANDS:
        for entry in entry_points(group="cornet.commands"):
            entry.load()(app)


def _fail(message: str) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
