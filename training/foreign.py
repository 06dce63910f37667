"""`cornet export`: publish a Keras model that was trained elsewhere, with the same proof as our own.

The signature is read off the model's inputs and outputs. Names that Keras made up (`input_layer_3`, `dense_7`) become
readable ones; any can be chosen with `--input-name old=new` and `--output-name old=new`.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from services.errors import CornetError, DataError, InvalidArgument
from services.manifest import TASKS, Provenance, sha256
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec
from training.adopt import adopt
from training.datasets.npz import open_npz
from training.formats import layers_of, quiet
from training.pipeline import ServingModel
from training.precision.options import (
    CalibrationOption,
    PrecisionOption,
    Quantization,
    QuantizationOption,
    VariantOptions,
)
from training.publishing import check_name

if TYPE_CHECKING:
    from rich.console import Console

    from training.exporter import Exported

FAMILY = "keras"
"""The family in the manifest of a model that none of our pipelines trained."""

RANDOM_ROWS = 41
MOST_RANDOM_INTEGER = 10
FREE_LENGTHS = (16, 32, 64, 128, 256)

_SUFFIXES = {".keras", ".h5", ".hdf5"}


def register(app: typer.Typer) -> None:
    """Add `export` to a command line."""
    app.command("export")(export_command)


def export_command(
    model: Annotated[Path, typer.Argument(help="A .keras file (or .h5) that was saved anywhere.")],
    name: Annotated[str, typer.Option(help="Name of the model in the repository.")],
    repository: Annotated[Path, typer.Option(envvar="CORNET_REPOSITORY", help="Model repository to export to.")] = Path(
        "exported_models"
    ),
    input_name: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Rename an input; repeatable.")
    ] = None,
    output_name: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Rename an output; repeatable.")
    ] = None,
    task: Annotated[str, typer.Option(help=f"What it is for: {', '.join(TASKS)}.")] = "",
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line, in output order.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="NPZ of rows by input name to compare on. Default: random rows that fit the inputs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random rows.")] = 0,
    precision: PrecisionOption = None,
    quantization: QuantizationOption = Quantization.AUTO,
    calibration: CalibrationOption = None,
) -> None:
    """Publish a Keras model that was trained elsewhere: SavedModel and ONNX, compared with it on rows of yours.

    Its other precisions are held to its answers to those rows; without targets there is no metric to judge them by.
    """
    from rich.console import Console
    from rich.markup import escape

    from training.exporter import STAGES

    console = Console(highlight=False)
    with console.status("loading TensorFlow") as status:
        exported = export_file(
            model,
            name=name,
            repository=repository,
            input_names=_renames(input_name, "--input-name"),
            output_names=_renames(output_name, "--output-name"),
            task=task,
            labels=read_labels(labels) if labels else (),
            samples=samples,
            seed=seed,
            progress=lambda stage: status.update(f"{stage} ({STAGES.index(stage) + 1} of {len(STAGES)})"),
        )
    console.print(f"exported {escape(str(exported.path))}", soft_wrap=True)
    signature = exported.manifest.signatures[DEFAULT_SIGNATURE]
    for way, specs in (("in ", signature.inputs), ("out", signature.outputs)):
        for spec in specs:
            console.print(f"  {way} {escape(str(spec))}", soft_wrap=True)
    for record in exported.manifest.parity:
        distance = f"max abs {record.max_abs:.2g} on {record.samples} rows"
        console.print(f"  {record.format} {escape(record.output)}: {distance}", soft_wrap=True)
    _export_variants(exported, VariantOptions(tuple(precision or ()), quantization), calibration, repository, console)


def _export_variants(
    exported: "Exported", options: VariantOptions, calibration: Path | None, repository: Path, console: "Console"
) -> None:
    from training.precision.evidence import calibrated_on
    from training.precision.table import print_variants
    from training.precision.variants import check_published, publish_variants

    evidence = calibrated_on(calibration, exported.manifest.signatures[DEFAULT_SIGNATURE])
    outcomes = publish_variants(exported, options, evidence, repository=repository)
    print_variants(console, outcomes)
    check_published(outcomes)


def export_file(
    path: Path,
    *,
    name: str,
    repository: Path,
    input_names: Mapping[str, str] | None = None,
    output_names: Mapping[str, str] | None = None,
    task: str = "",
    labels: tuple[str, ...] = (),
    samples: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> "Exported":
    """Publish the model in a .keras or .h5 file.

    Both formats are compared with it on the rows of `samples` (an NPZ by input name), or on random ones drawn with `seed`;
    the manifest says which. Raises what `training.exporter.export` raises, and DataError where a file cannot be used.
    """
    from training.environment import import_keras, package_versions
    from training.exporter import export

    check_name(name)
    if task and task not in TASKS:
        raise InvalidArgument(f"Expected a task out of {', '.join(TASKS)}. Received: {task!r}.")
    _check_file(path)
    import_keras(seed, deterministic=False)
    with quiet():
        model = load(path)
        serving = adopt(model, inputs=input_names, outputs=output_names, task=task, labels=labels)
        rows = read_rows(samples, serving.signature) if samples else random_rows(serving, seed)
    drawn = f"{samples.name}, sha256:{sha256(samples)}" if samples else f"drawn at random with seed {seed}"
    return export(
        serving,
        repository=repository,
        name=name,
        family=FAMILY,
        task=task,
        processor=None,
        samples=rows,
        metrics={},
        baseline={},
        provenance=Provenance(
            packages=package_versions(),
            base_weights=f"sha256:{sha256(path)}",
            options={"source": path.name, "parity_rows": drawn},
        ),
        progress=progress,
    )


def load(path: Path) -> Any:
    """The Keras model in a file. Nothing in the file is executed: a Python lambda in it is refused.

    Raises DataError for a file that is no Keras model, InvalidArgument for one that needs classes or lambdas of its own.
    """
    import keras

    _check_file(path)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise _load_error(path, error) from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names, one per line, in the order of the outputs. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected UTF-8 text with one label per line. Received: {error}.") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels or len(set(labels)) != len(labels):
        raise DataError(f"{path}: expected different labels, one per line. Received: {len(labels)} lines with repeats.")
    return labels


def read_rows(path: Path, signature: Signature) -> dict[str, np.ndarray]:
    """Rows by input name from an NPZ, cast to the inputs' types where no value changes its meaning. Raises DataError."""
    with open_npz(path) as stored:
        arrays = dict(stored)
    wanted = [spec.name for spec in signature.inputs]
    if set(arrays) != set(wanted):
        raise DataError(f"{path}: expected arrays named {', '.join(wanted)}. Received: {', '.join(arrays)}.")
    return {spec.name: _cast(arrays[spec.name], spec, path) for spec in signature.inputs}


def random_rows(serving: ServingModel, seed: int) -> dict[str, np.ndarray]:
    """Seeded rows that fit the inputs: floats from a normal distribution, bytes over their range, other integers below
    the size of the smallest embedding.

    A free axis gets the shortest of a few lengths that the model accepts. Raises InvalidArgument where it accepts none.
    """
    import tensorflow as tf

    sizes = [
        layer.input_dim for layer in layers_of(serving.model) if isinstance(getattr(layer, "input_dim", None), int)
    ]
    below = min([*sizes, MOST_RANDOM_INTEGER])
    reasons = []
    for length in FREE_LENGTHS:
        rng = np.random.default_rng(seed)
        rows = {spec.name: _draw(rng, spec, length, below) for spec in serving.signature.inputs}
        try:
            serving.model({name: tf.constant(values[:1]) for name, values in rows.items()}, training=False)
        except (ValueError, tf.errors.OpError) as error:
            reasons.append(f"length {length}: {_first_line(error)}")
        else:
            return rows
    raise InvalidArgument(
        f"Expected a model that takes random rows. Received: {reasons[-1]}; give rows of yours with --samples."
    )


def _draw(rng: np.random.Generator, spec: TensorSpec, length: int, below: int) -> np.ndarray:
    shape = (RANDOM_ROWS, *(length if axis == DYNAMIC else axis for axis in (spec.shape or ())[1:]))
    kind = spec.dtype.numpy.kind
    if kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype.numpy)
    if kind == "b":
        return rng.random(shape) < 0.5
    highest = 256 if spec.dtype.name == "uint8" else below
    return rng.integers(0, highest, shape).astype(spec.dtype.numpy)


def _cast(rows: np.ndarray, spec: TensorSpec, path: Path) -> np.ndarray:
    wanted = spec.dtype.numpy
    if rows.dtype.kind in "fiub":
        with np.errstate(invalid="ignore"):  # NaN as an integer: the comparison below finds it
            cast = rows.astype(wanted)
        if wanted.kind == "f" or np.array_equal(cast, rows):
            return cast
    raise DataError(f"{path}: expected {spec}. Received: {rows.dtype.name} values that do not fit.")


def _renames(pairs: Iterable[str] | None, option: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for pair in pairs or ():
        old, equals, new = pair.partition("=")
        if not equals or not old or not new or old in names:
            raise InvalidArgument(f"Expected {option} OLD=NEW, once per tensor. Received: {pair!r}.")
        names[old] = new
    return names


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidArgument(f"Expected a file that ends in {', '.join(sorted(_SUFFIXES))}. Received: {path}.")
    if not path.is_file():
        raise DataError(f"{path}: expected a Keras model file. Received: no such file.")
    if path.suffix.lower() == ".keras" and not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected a .keras file, which is a ZIP archive. Received: something else.")


def _load_error(path: Path, error: Exception) -> CornetError:
    """Keras's many errors, in the words of what can be done about them."""
    text = str(error)
    if "ambda" in text and ("safe_mode" in text or "arbitrary code" in text):
        return InvalidArgument(
            f"{path}: expected a model without Python lambdas, which could run any code when loaded. Received: a Lambda "
            "layer; replace it by a layer or by keras.ops, and save the model again."
        )
    missing = re.search(r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|class)):? '([^']+)'", text)
    if missing:
        return InvalidArgument(
            f"{path}: expected a model of Keras's own classes. Received: the custom class {missing[1]}, whose code is "
            "not in the file. Export it from Python with training.exporter.export, where the class can be imported."
        )
    return DataError(f"{path}: expected a model that Keras can load. Received: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
