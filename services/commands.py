"""The commands of `cornet`, in one typer application.

Commands that train live in `training`, which this package never imports: they are found through the entry point group
`cornet.commands`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

import typer

from services import serve_command

app = typer.Typer(
    name="cornet",
    help="Keras models from fit to a production endpoint: train, prove the export, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = {
    "batch": "services.batch.command:batch_app",
    "models": "services.models_cli:models_app",
    "loadtest": "services.loadtest.command:loadtest_app",
}
"""Groups of commands by name, and where their typer application is: imported only where it is asked for."""


@app.command()
def version() -> None:
    """Print the version of cornet."""
    from services.server_info import own_version

    sys.stdout.write(f"{own_version()}\n")


@app.command(
    help=serve_command.SUMMARY,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def serve(context: typer.Context) -> None:
    serve_command.main(context.args)


def main(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name."""
    _add_commands(arguments)
    app(list(arguments))


def _add_commands(arguments: Sequence[str]) -> None:
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
