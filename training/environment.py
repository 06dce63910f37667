"""What a training run needs from its surroundings: a quiet TensorFlow, repeatable operations, and provenance."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.manifest import Provenance
from training.pipeline import CommonOptions, Loaded

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGES = ("cornet", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "numpy", "scikit-learn")


def import_keras(seed: int, *, deterministic: bool) -> None:
    """Import Keras on TensorFlow without its start-up chatter, and seed every generator.

    `deterministic` makes TensorFlow refuse operations that do not repeat bit for bit; it holds for the whole process.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _standard_error_held():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
    # It warns of functions that are traced again and again, as those of every trial's new model are.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def show_warnings(console: "Console") -> None:
    """Print what this package warns of (gaps in a series, random weights) on the console, between the progress bars."""
    from rich.logging import RichHandler

    logger = logging.getLogger("training")
    logger.handlers[:] = [
        RichHandler(logging.WARNING, console, show_time=False, show_path=False, rich_tracebacks=False)
    ]
    logger.propagate = False


def provenance(loaded: Loaded, options: CommonOptions, base_weights: str, target: str | None = None) -> Provenance:
    """Where a model comes from: code, data and the target asked for in it, packages and options."""
    return Provenance(
        git_commit=git_commit(),
        seed=options.seed,
        dataset=loaded.name,
        dataset_sha256=loaded.sha256,
        packages=package_versions(),
        base_weights=base_weights,
        options=plain_options(options),
        target=target,
    )


def plain_options(options: CommonOptions) -> dict[str, Any]:
    """The options as JSON holds them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a model answers; those not installed are left out."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str:
    """The commit of this code, with `-dirty` where tracked files differ from it; '' outside a git work tree."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603  # a fixed command line
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def _standard_error_held() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2, and show it only if the block fails.

    TensorFlow's C++ start-up writes there before any of its log settings apply.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        own = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(own, held.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)
