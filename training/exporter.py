"""The only writer of a model repository: export, prove, publish.

    exported = export(serving, repository=Path("exported_models"), name="classifier", family="classifier",
                      task="classification", processor=processor, samples=test.inputs, metrics=metrics,
                      baseline=baseline, provenance=Provenance(seed=0))
    exported.path          # exported_models/classifier/1, complete and compared with Keras

A version directory holds a SavedModel and an ONNX file of the same function, the processor's assets, held-out rows with
Keras's answers to them, and manifest.json. It appears in one rename when all of that is on the disk and has passed
`training.gate`; otherwise nothing appears and nothing stays behind.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from services.errors import InvalidArgument
from services.manifest import (
    ONNX_FILE,
    TASKS,
    Manifest,
    ProcessorSpec,
    Provenance,
    hash_files,
)
from services.parity import write_samples
from services.processing import Processor
from services.tensors import DEFAULT_SIGNATURE, Signature, dtype_of
from training import gate
from training.formats import serving_function, write_saved_model
from training.onnx_format import OPSET, write_onnx
from training.pipeline import Arrays, ServingModel
from training.publishing import Staging, writing

STAGES = ("saved_model", "onnx", "assets", "parity", "manifest", "sync", "publish", "published")
"""What `progress` is called with, as each begins."""

MOST_SAMPLES = 256
LEAST_SAMPLES = 8
SAMPLES_BYTES = 2_000_000
"""Held-out rows that are stored: as many as fit here, within the two numbers above."""


_TENSOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""What TensorFlow, ONNX and JSON clients all take as it is."""


@dataclass(frozen=True)
class Exported:
    """What was published, and where."""

    version: int
    path: Path
    manifest: Manifest


def export(
    serving: ServingModel,
    *,
    repository: Path,
    name: str,
    family: str,
    task: str,
    processor: Processor | None,
    samples: Arrays,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    provenance: Provenance,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Publish the next version of a model, or nothing.

    `samples`: held-out input rows by name, as a client would send them; at least 40 where there are that many. `metrics` and
    `baseline`: figures on the held-out part, the family's primary one first. Raises ParityError where a format answers
    differently from Keras, InvalidArgument where model, signature, samples or name contradict each other,
    FailedPrecondition where the model has operations ONNX lacks or the repository cannot be written, ResourceExhausted
    where the disk is full.
    """
    tell = progress or _silent
    _check(serving.signature, task)
    rows = _stored_rows(samples, serving.signature)
    manifest = Manifest(
        name=name,
        family=family,
        task=task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        signatures={DEFAULT_SIGNATURE: serving.signature},
        labels=serving.labels,
        batching=serving.batching,
        metrics=_finite(metrics, "metrics"),
        baseline=_finite(baseline, "baseline"),
        provenance=replace(
            provenance,
            base_weights=provenance.base_weights or serving.base_weights,
            packages={**provenance.packages, "onnx-opset": str(OPSET)},
        ),
    )
    with Staging(repository, name) as staging, writing(f"version of {name} in {repository}"):
        manifest = _write(staging.path, serving, manifest, processor, rows, tell)
        tell("sync")
        staging.sync()
        tell("publish")
        version, path = staging.publish()
    tell("published")
    return Exported(version, path, manifest)


def _write(
    directory: Path,
    serving: ServingModel,
    manifest: Manifest,
    processor: Processor | None,
    rows: Arrays,
    tell: Callable[[str], None],
) -> Manifest:
    """Everything of a version, checked; the manifest last, as it holds what the check found and the hash of every file."""
    tell("saved_model")
    function = serving_function(serving.model, serving.signature)
    write_saved_model(directory, serving.model, function)
    tell("onnx")
    write_onnx(directory / ONNX_FILE, serving.model, function, serving.signature, name=manifest.name)
    tell("assets")
    spec: ProcessorSpec | None = processor.save(directory) if processor else None
    tell("parity")
    records, answers = gate.check(directory, serving, rows, padding=spec is not None and spec.kind == "text")
    write_samples(directory, rows, answers)
    tell("manifest")
    manifest = replace(manifest, processor=spec, parity=records, files=hash_files(directory))
    manifest.write(directory)
    return manifest


def _stored_rows(samples: Arrays, signature: Signature) -> dict[str, np.ndarray]:
    """Some of the held-out rows, evenly spread, as many as are worth storing. Raises InvalidArgument."""
    _check_samples(samples, signature)
    arrays = {spec.name: samples[spec.name] for spec in signature.inputs}
    count = len(next(iter(arrays.values())))
    row_bytes = sum(rows[:1].nbytes for rows in arrays.values())
    keep = min(count, MOST_SAMPLES, max(LEAST_SAMPLES, SAMPLES_BYTES // max(row_bytes, 1)))
    chosen = np.linspace(0, count - 1, keep).round().astype(int)
    return {name: np.ascontiguousarray(rows[chosen]) for name, rows in arrays.items()}


def _check_samples(samples: Arrays, signature: Signature) -> None:
    wanted = [spec.name for spec in signature.inputs]
    if set(samples) != set(wanted):
        raise InvalidArgument(f"Expected held-out rows of {', '.join(wanted)}. Received: {', '.join(samples)}.")
    for spec in signature.inputs:
        rows = samples[spec.name]
        if dtype_of(rows) != spec.dtype or not spec.accepts(rows.shape):
            raise InvalidArgument(
                f"Expected held-out rows {spec}. Received: {rows.dtype.name} of shape {list(rows.shape)}."
            )
    counts = {name: len(rows) for name, rows in samples.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InvalidArgument(f"Expected as many held-out rows of every input, at least one. Received: {counts}.")


def _check(signature: Signature, task: str) -> None:
    if task and task not in TASKS:
        raise InvalidArgument(f"Expected a task out of {', '.join(TASKS)}, or none. Received: {task!r}.")
    specs = (*signature.inputs, *signature.outputs)
    for spec in specs:
        if not spec.batchable:
            raise InvalidArgument(f"Expected a first axis that counts rows, of any length. Received: {spec}.")
        if spec.dtype.is_string:
            raise InvalidArgument(
                f"Expected numbers or booleans: strings are a processor's work, before the model. Received: {spec}."
            )
    names = [spec.name for spec in specs]
    wrong = [name for name in names if not _TENSOR_NAME.fullmatch(name)]
    if wrong:
        raise InvalidArgument(
            f"Expected tensor names of letters, digits and '_' that start with a letter. Received: {', '.join(wrong)}."
        )
    if len(set(names)) != len(names):
        raise InvalidArgument(f"Expected each tensor to have a name of its own. Received: {', '.join(names)}.")


def _finite(figures: Mapping[str, float], what: str) -> dict[str, float]:
    plain = {name: float(value) for name, value in figures.items()}
    wrong = [name for name, value in plain.items() if not math.isfinite(value)]
    if wrong:
        raise InvalidArgument(f"Expected finite {what}. Received: {', '.join(f'{n}={plain[n]}' for n in wrong)}.")
    return plain


def _silent(_stage: str) -> None:
    """The progress of an export nobody watches."""
