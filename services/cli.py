"""`cornet`: the command line.

`serve` is dispatched here, without the packages that the other commands are made with: a server's start waits for what it
imports, and holds it. The others are in `services.commands`.
"""

import sys
from typing import NoReturn

from services.errors import CornetError

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


def main() -> None:
    """Run the command line; a CornetError becomes one line on standard error and exit status 1."""
    try:
        _run(sys.argv[1:])
    except CornetError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name.partition(".")[0]]
        _fail(
            f"this command needs {error.name}, which is not installed. Install it with: pip install 'cornet[{extra}]'"
        )


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["serve"]:
        from services import serve_command

        serve_command.main(arguments[1:])
    else:
        from services import commands

        commands.main(arguments)


def _fail(message: str) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
