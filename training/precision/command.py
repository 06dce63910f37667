"""`cornet convert`: publish another precision of a version that is already in a repository. It takes no TensorFlow."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from services.errors import DataError, InvalidArgument
from services.manifest import MANIFEST_FILE, Manifest, verify_files
from services.tensors import DEFAULT_SIGNATURE
from training.precision.options import (
    CalibrationOption,
    Precision,
    PrecisionOption,
    Quantization,
    QuantizationOption,
    VariantOptions,
)


def register(app: typer.Typer) -> None:
    """Add `convert` to a command line."""
    app.command("convert")(convert)


def convert(
    version: Annotated[Path, typer.Argument(help="A version to start from: exported_models/NAME/VERSION.")],
    precision: PrecisionOption = None,
    quantization: QuantizationOption = Quantization.AUTO,
    calibration: CalibrationOption = None,
) -> None:
    """Publish a version as NAME-fp16 or NAME-int8 beside it, held to its answers to the rows that it stores.

    Without the targets of those rows there is no metric to judge by; `cornet train --precision` judges by that too.
    """
    from training.exporter import Exported
    from training.precision.evidence import calibrated_on
    from training.precision.table import print_variants
    from training.precision.variants import check_published, publish_variants

    options = VariantOptions(tuple(precision or ()), quantization)
    if not options.wanted:
        raise InvalidArgument(f"Expected --precision {Precision.FP16} or {Precision.INT8}. Received: none of them.")
    folder = version.resolve().name
    if not (folder.isascii() and folder.isdigit()) or not (version / MANIFEST_FILE).is_file():
        raise DataError(f"{version}: expected a version that cornet exported, NAME/NUMBER. Received: something else.")
    manifest = Manifest.read(version)
    verify_files(version, manifest)
    source = Exported(int(folder), version, manifest)
    evidence = calibrated_on(calibration, manifest.signatures[DEFAULT_SIGNATURE])
    console = Console(highlight=False)
    with console.status("other precisions") as status:
        repository = version.resolve().parent.parent
        outcomes = publish_variants(source, options, evidence, repository=repository, progress=status.update)
    print_variants(console, outcomes)
    for outcome in outcomes:
        if outcome.exported is not None:
            console.print(f"exported {escape(str(outcome.exported.path))}", soft_wrap=True)
    check_published(outcomes)
