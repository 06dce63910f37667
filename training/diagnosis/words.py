"""A diagnosis on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from training.diagnosis.figures import CSV_FILE, JSON_FILE, Diagnosis


def print_findings(console: Console, diagnosis: Diagnosis, directory: Path) -> None:
    """What is wrong, where, and what usually helps; or that nothing is. And where the figures are."""
    for finding in diagnosis.findings:
        console.print(f"[bold red]{finding.kind}[/], {finding.when}: {escape(finding.text)}", soft_wrap=True)
        console.print(f"  usual remedy: {escape(finding.remedy)}", soft_wrap=True)
    if not diagnosis.findings:
        console.print("diagnosis: gradients, steps and activations stayed within their limits")
    if diagnosis.epochs:
        console.print(f"figures  {directory / JSON_FILE}, {CSV_FILE}", soft_wrap=True)
