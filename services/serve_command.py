"""`cornet serve`: every setting is an option.

The options are made from the settings' declarations, and read by argparse: a server that has little to say on its command
line does not wait for the packages that make other commands comfortable.
"""

import argparse
import gc
from collections.abc import Sequence

from services.options import Option
from services.settings import ENVIRONMENT_PREFIX, read_settings, setting_options

SUMMARY = "Serve the models of a repository over gRPC and HTTP until SIGTERM or Ctrl-C."

_OTHER_NAMES = {"models_file": ("--models",)}
"""Names of options beside the settings' own."""

_GROUPS = {
    "GPU": ("gpu_",),
    "gRPC": ("grpc_",),
    "Limits of HTTP": ("max_body_", "keep_alive_"),
    "Logs and traces": ("log_", "trace_"),
    "Request log": ("request_log",),
}
"""Headings of the help, by what the settings under them begin with; the rest comes first."""


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal. Raises CornetError where the server cannot start; bad usage ends the process with status 2."""
    given = vars(_parser().parse_args(arguments))
    if given.pop("help"):  # only now: with an option that there is not, it is that option that matters
        _parser(described=True).print_help()
        return
    settings = read_settings(**given)
    if settings.workers > 1:
        from services.workers.start import supervise

        supervise(settings)

    gc.disable()  # until `Server.start`: it would look through what is imported again and again, an eighth of a start
    from services.app import run

    run(settings)


def _parser(*, described: bool = False) -> argparse.ArgumentParser:
    """Values stay texts, which the settings judge. The options are `described` for help alone: it takes their source."""
    parser = argparse.ArgumentParser(
        prog="cornet serve",
        usage="cornet serve [OPTIONS]",
        description=f"{SUMMARY} Each option wins over {ENVIRONMENT_PREFIX}<NAME> in the environment.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this message and exit.")
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    for name, option in setting_options().items():
        title = next((title for title, beginnings in _GROUPS.items() if name.startswith(beginnings)), None)
        names = (*_OTHER_NAMES.get(name, ()), f"--{name.replace('_', '-')}")
        group = parser if title is None else groups[title]
        described_as = _description(option) if described else None
        if option.hint is bool:
            group.add_argument(*names, dest=name, action=argparse.BooleanOptionalAction, help=described_as)
        else:
            group.add_argument(*names, dest=name, metavar=_metavar(option), help=described_as)
    return parser


def _metavar(option: Option) -> str:
    kind = option.type_text.removesuffix(" | none")
    return kind if "|" in kind else kind.partition(" ")[0].upper()


def _description(option: Option) -> str:
    bounds = "" if option.bounds is None else f"{option.bounds}; "
    return f"{option.help} [{bounds}default {option.default_text}]".replace("%", "%%")
