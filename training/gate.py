"""The gate before publishing: both written formats must answer held-out rows as Keras does, in every signature.

What is compared is what will be served: the ONNX file through the server's own backend, the SavedModel loaded afresh from the
written files. Every case's right answer is the Keras model's to all rows at once; the formats answer one row at a time and a
large odd number at once, so that an answer that depends on its neighbours fails too. Where an axis is free, several lengths
are tried; where 0 pads (text), Keras itself and both formats must give the same answer with and without padding.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.engine.backend import CPU, BackendOptions, OnnxBackend
from services.errors import CornetError, ParityError
from services.manifest import ParityRecord
from services.parity import Tolerance, compare, merge, tolerance_for
from services.tensors import Signature
from training.cases import Case, Run, cases_of, row_batches
from training.formats import layers_of, quiet
from training.pipeline import Arrays, Endpoint

if TYPE_CHECKING:
    import keras


def check(
    directory: Path,
    endpoints: Mapping[str, Endpoint],
    onnx_file: Callable[[str], str],
    samples: Mapping[str, Arrays],
    *,
    padding: bool,
) -> tuple[tuple[ParityRecord, ...], dict[str, dict[str, np.ndarray]]]:
    """Compare every signature in both formats in `directory` with Keras.

    `onnx_file` names the file of a signature; `samples` are the rows of each. `padding`: zeros at the end of a free axis must
    not change an answer. Returns the records (formats `saved_model` and `onnx`, and `padding` for Keras with itself) and, by
    signature, Keras's answers to the samples. Raises ParityError.
    """
    signatures = {key: endpoint.signature for key, endpoint in endpoints.items()}
    records: list[ParityRecord] = []
    answers: dict[str, dict[str, np.ndarray]] = {}
    files = {key: directory / onnx_file(key) for key in endpoints}
    with saved_model_runs(directory, signatures) as saved_model, onnx_runs(files, signatures) as onnx:
        for key, endpoint in endpoints.items():
            formats = {"saved_model": saved_model[key], "onnx": onnx[key]}
            try:
                found, answers[key] = _check(endpoint, samples[key], formats, padding=padding)
            except ParityError as error:
                raise ParityError(f"Signature {key}: {error}") from error
            records += [replace(record, signature=key) for record in found]
    return tuple(records), answers


def _check(
    endpoint: Endpoint, samples: Arrays, formats: Mapping[str, Run], *, padding: bool
) -> tuple[list[ParityRecord], dict[str, np.ndarray]]:
    """One signature's records and Keras's answers."""
    keras_run = keras_runner(endpoint)
    cases = list(cases_of(keras_run, endpoint.signature, samples, padding=padding, refusals=_refusals()))
    compute = coarsest_float(endpoint.model)
    tolerances = {name: tolerance_for(answers, compute) for name, answers in cases[0].answers.items()}
    records = [record for case in cases if case.padded for record in _judge("padding", keras_run, case, tolerances)]
    for format_, run in formats.items():
        for case in cases:
            records += _judge(format_, run, case, tolerances)
    by_output: dict[tuple[str, str], list[ParityRecord]] = {}
    for record in records:
        by_output.setdefault((record.format, record.output), []).append(record)
    return [merge(group) for group in by_output.values()], cases[0].answers


def keras_runner(endpoint: Endpoint) -> Run:
    """The Keras model itself, on the CPU: a GPU's TF32 rounding is no reference for anybody."""
    import tensorflow as tf

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        with tf.device("/CPU:0"):
            answers = endpoint.model({name: tf.constant(rows) for name, rows in inputs.items()}, training=False)
            return {spec.name: np.asarray(answers[spec.name]) for spec in endpoint.signature.outputs}

    return run


@contextmanager
def onnx_runs(files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Iterator[dict[str, Run]]:
    """The written ONNX files under the server's backend. Raises ParityError where their tensors are not the signatures'."""
    backend = OnnxBackend(files, BackendOptions(providers=(CPU,)))
    try:
        for key, signature in signatures.items():
            found = backend.signatures[key]
            if not _same_tensors(found, signature):
                raise ParityError(f"Expected {files[key].name} to have {_words(signature)}. Received: {_words(found)}.")
        yield {key: partial(backend.run, key) for key in signatures}
    finally:
        backend.close()


@contextmanager
def saved_model_runs(directory: Path, signatures: Mapping[str, Signature]) -> Iterator[dict[str, Run]]:
    """The written SavedModel, loaded afresh. Raises ParityError where its signatures are not ours by name."""
    import tensorflow as tf

    with quiet(), tf.device("/CPU:0"):
        loaded = tf.saved_model.load(str(directory))
    if set(loaded.signatures) != set(signatures):
        raise ParityError(f"Expected the signatures {', '.join(signatures)}. Received: {', '.join(loaded.signatures)}.")
    yield {key: _saved_model_run(loaded.signatures[key], signature) for key, signature in signatures.items()}


def _saved_model_run(serve: Any, signature: Signature) -> Run:
    import tensorflow as tf

    for side, specs, found in (
        ("inputs", signature.inputs, serve.structured_input_signature[1]),
        ("outputs", signature.outputs, serve.structured_outputs),
    ):
        wanted = {spec.name: spec.dtype.name for spec in specs}
        if {name: spec.dtype.name for name, spec in found.items()} != wanted:
            raise ParityError(f"Expected the SavedModel to have the {side} {wanted}. Received: {found}.")

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        with tf.device("/CPU:0"):
            answers = serve(**{name: tf.constant(rows) for name, rows in inputs.items()})
        return {name: np.asarray(answer) for name, answer in answers.items()}

    return run


def coarsest_float(model: "keras.Model") -> str:
    """`float16` for a graph that computes in half precision somewhere, else `float32`: what an answer is rounded to."""
    halves = {"float16", "bfloat16"}
    return "float16" if any(str(layer.compute_dtype) in halves for layer in layers_of(model)) else "float32"


def _judge(format_: str, run: Run, case: Case, tolerances: Mapping[str, Tolerance]) -> list[ParityRecord]:
    count = len(next(iter(case.inputs.values())))
    batches = row_batches(count)
    order = np.concatenate(batches)
    refusals: tuple[type[Exception], ...] = (CornetError, *_refusals())
    try:
        answers = [run({name: rows[batch] for name, rows in case.inputs.items()}) for batch in batches]
    except refusals as error:
        raise ParityError(f"{format_} cannot compute what Keras computes ({case.title}): {error}") from error
    return [
        compare(
            format_,
            output,
            np.concatenate([answer[output] for answer in answers]),
            want[order],
            tolerances[output],
            rows=order,
            case=case.title,
        )
        for output, want in case.answers.items()
    ]


def _refusals() -> tuple[type[Exception], ...]:
    """What Keras and TensorFlow raise for a shape or a value that a model does not take."""
    import tensorflow as tf

    return (ValueError, tf.errors.OpError)


def _same_tensors(found: Signature, wanted: Signature) -> bool:
    """Same names and types in the same order, and shapes that fit; ONNX Runtime may know a length Keras leaves open."""
    if (len(found.inputs), len(found.outputs)) != (len(wanted.inputs), len(wanted.outputs)):
        return False
    pairs = zip((*found.inputs, *found.outputs), (*wanted.inputs, *wanted.outputs), strict=True)
    return all((a.name, a.dtype) == (b.name, b.dtype) and a.shape is not None and b.accepts(a.shape) for a, b in pairs)


def _words(signature: Signature) -> str:
    inputs, outputs = (", ".join(map(str, specs)) for specs in (signature.inputs, signature.outputs))
    return f"{inputs} -> {outputs}"
