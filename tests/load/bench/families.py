"""A repository of the seven families: one that is there, or one trained here in short runs of the project's own pipelines."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.load.bench.models import FAMILIES
from tests.load.bench.servers import PROJECT


def find_families(given: Path | None, folder: Path, say: Callable[[str], None]) -> Path:
    """The repository that was given, else the demo's, else `folder/families`, where what is missing is trained.

    A family that fails to train is named and left out.
    """
    if given is not None:
        return given
    demo = PROJECT / "runs" / "demo" / "models"
    if all((demo / name).is_dir() for name in FAMILIES):
        return demo
    repository = folder / "families"
    repository.mkdir(parents=True, exist_ok=True)
    for name in FAMILIES:
        if not (repository / name).is_dir():
            say(f"training {name} for one epoch")
            options = ("--epochs", "1", "--repository", str(repository))
            command = [sys.executable, "-m", "services.cli", "train", name, *options]
            done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
            if done.returncode:
                say(f"{name} is left out: {(done.stderr or done.stdout).strip()[-300:]}")
    return repository
