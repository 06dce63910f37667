"""How a command ends on Ctrl-C: a line on standard error that says what is kept, and an exit status of its own."""

import typer
from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""


def interrupted(text: str) -> typer.Exit:
    """Say how far it came and how to go on; returns the exit to raise."""
    Console(stderr=True, highlight=False).print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    return typer.Exit(INTERRUPTED)
