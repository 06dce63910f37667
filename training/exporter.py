"""The only writer of a model repository: export, prove, publish.

    exported = export(serving, repository=Path("exported_models"), name="classifier", family="classifier",
                      task="classification", processor=processor, samples=test.inputs, metrics=metrics,
                      baseline=baseline, provenance=Provenance(seed=0))
    exported.path          # exported_models/classifier/1, complete and compared with Keras

A version directory holds a SavedModel, an ONNX file of each of its functions, the processor's assets, held-out rows with
Keras's answers to them, and manifest.json. It appears in one rename when all of that is on the disk and has passed
`training.gate`; otherwise nothing appears and nothing stays behind.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from services.errors import InvalidArgument
from services.files import writing
from services.manifest import (
    TASKS,
    Manifest,
    ProcessorSpec,
    Provenance,
    hash_files,
    onnx_file_of,
    samples_file_of,
)
from services.parity import write_samples
from services.processing import Processor
from services.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec, dtype_of
from training import gate
from training.formats import serving_function, write_saved_model
from training.onnx_format import OPSET, write_onnx
from training.pipeline import Arrays, Endpoint, ServingModel
from training.publishing import Staging

STAGES = ("saved_model", "onnx", "assets", "parity", "manifest", "sync", "publish", "published")
"""What `progress` is called with, as each begins."""

MOST_SAMPLES = 256
LEAST_SAMPLES = 8
SAMPLES_BYTES = 2_000_000
"""Held-out rows that are stored: as many as fit here, within the two numbers above."""


_TENSOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""What TensorFlow, ONNX and JSON clients all take as it is; the names of signatures are held to it, too."""


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
    _check_task(task)
    _check_endpoints(serving)
    rows = {key: _stored_rows(key, endpoint, samples) for key, endpoint in serving.endpoints.items()}
    manifest = Manifest(
        name=name,
        family=family,
        task=task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        signatures={key: endpoint.signature for key, endpoint in serving.endpoints.items()},
        onnx_files=_onnx_files(serving.endpoints),
        labels=serving.labels,
        batching=serving.batching,
        notes=serving.notes,
        metrics=_finite(metrics, "metrics"),
        baseline=_finite(baseline, "baseline"),
        provenance=replace(
            provenance,
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
    rows: Mapping[str, Arrays],
    tell: Callable[[str], None],
) -> Manifest:
    """Everything of a version, checked; the manifest last, as it holds what the check found and the hash of every file."""
    tell("saved_model")
    endpoints = serving.endpoints
    functions = {
        file: serving_function(endpoints[key].model, endpoints[key].signature)
        for file, key in manifest.functions.items()
    }
    by_signature = {key: functions[manifest.onnx_file(key)] for key in endpoints}
    write_saved_model(directory, list(dict.fromkeys(endpoint.model for endpoint in endpoints.values())), by_signature)
    tell("onnx")
    for file, key in manifest.functions.items():
        endpoint = endpoints[key]
        write_onnx(directory / file, endpoint.model, functions[file], endpoint.signature, name=manifest.name)
    tell("assets")
    spec: ProcessorSpec | None = processor.save(directory) if processor else None
    tell("parity")
    padding = processor is not None and processor.pads
    records, answers = gate.check(directory, endpoints, manifest.onnx_file, rows, padding=padding)
    for file, key in manifest.functions.items():
        write_samples(directory, rows[key], answers[key], samples_file_of(file))
    tell("manifest")
    manifest = replace(manifest, processor=spec, parity=records, files=hash_files(directory))
    manifest.write(directory)
    return manifest


def _onnx_files(endpoints: Mapping[str, Endpoint]) -> dict[str, str]:
    """The ONNX file of every signature but `serving_default`'s; one that is another's function again shares its file."""
    files: dict[str, str] = {}
    seen: list[tuple[str, Endpoint]] = []
    for key, endpoint in endpoints.items():
        same = next((k for k, e in seen if e.model is endpoint.model and e.signature == endpoint.signature), None)
        seen.append((key, endpoint))
        files[key] = onnx_file_of(key) if same is None else files[same]
    return {key: file for key, file in files.items() if file != onnx_file_of(DEFAULT_SIGNATURE)}


def _stored_rows(key: str, endpoint: Endpoint, samples: Arrays) -> dict[str, np.ndarray]:
    """Some of a signature's held-out rows, evenly spread, as many as are worth storing. Raises InvalidArgument."""
    signature = endpoint.signature
    if endpoint.rows is not None:
        samples = endpoint.rows(samples)
    elif key != DEFAULT_SIGNATURE:
        wanted = {spec.name for spec in signature.inputs}
        samples = {name: rows for name, rows in samples.items() if name in wanted}
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


def _check_task(task: str) -> None:
    if task and task not in TASKS:
        raise InvalidArgument(f"Expected a task out of {', '.join(TASKS)}, or none. Received: {task!r}.")


def _check_endpoints(serving: ServingModel) -> None:
    if DEFAULT_SIGNATURE in serving.further:
        raise InvalidArgument(f"Expected further signatures beside {DEFAULT_SIGNATURE}. Received: it again.")
    for key, endpoint in serving.endpoints.items():
        _check_names([key], "signature names")
        _check_specs((*endpoint.signature.inputs, *endpoint.signature.outputs))


def _check_specs(specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if not spec.batchable:
            raise InvalidArgument(f"Expected a first axis that counts rows, of any length. Received: {spec}.")
        if spec.dtype.is_string:
            raise InvalidArgument(
                f"Expected numbers or booleans: strings are a processor's work, before the model. Received: {spec}."
            )
    names = [spec.name for spec in specs]
    _check_names(names, "tensor names")
    if len(set(names)) != len(names):
        raise InvalidArgument(f"Expected each tensor to have a name of its own. Received: {', '.join(names)}.")


def _check_names(names: Sequence[str], what: str) -> None:
    wrong = [name for name in names if not _TENSOR_NAME.fullmatch(name)]
    if wrong:
        raise InvalidArgument(
            f"Expected {what} of letters, digits and '_' that start with a letter. Received: {', '.join(wrong)}."
        )


def _finite(figures: Mapping[str, float], what: str) -> dict[str, float]:
    plain = {name: float(value) for name, value in figures.items()}
    wrong = [name for name, value in plain.items() if not math.isfinite(value)]
    if wrong:
        raise InvalidArgument(f"Expected finite {what}. Received: {', '.join(f'{n}={plain[n]}' for n in wrong)}.")
    return plain


def _silent(_stage: str) -> None:
    """The progress of an export nobody watches."""
