"""The gate before publishing: both written formats must answer held-out rows as Keras does.

What is compared is what will be served: the ONNX file through the server's own backend, the SavedModel loaded afresh from the
written files. Every case's right answer is the Keras model's to all rows at once; the formats answer one row at a time and a
large odd number at once, so that an answer that depends on its neighbours fails too. Where an axis is free, several lengths
are tried; where 0 pads (text), Keras itself and both formats must give the same answer with and without padding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.engine.backend import CPU, BackendOptions, OnnxBackend
from services.errors import CornetError, ParityError
from services.manifest import ONNX_FILE, ParityRecord
from services.parity import Tolerance, compare, merge, tolerance_for
from services.tensors import DEFAULT_SIGNATURE, Signature
from training.cases import Case, Run, cases_of, row_batches
from training.formats import layers_of, quiet
from training.pipeline import Arrays, ServingModel

if TYPE_CHECKING:
    import keras


def check(
    directory: Path, serving: ServingModel, samples: Arrays, *, padding: bool
) -> tuple[tuple[ParityRecord, ...], dict[str, np.ndarray]]:
    """Compare both formats in `directory` with Keras. `padding`: zeros at the end of a free axis must not change an answer.

    Returns the records (formats `saved_model` and `onnx`, and `padding` for Keras with itself) and Keras's answers to
    `samples`. Raises ParityError.
    """
    keras_run = keras_runner(serving)
    cases = list(cases_of(keras_run, serving.signature, samples, padding=padding, refusals=_refusals()))
    compute = coarsest_float(serving.model)
    tolerances = {name: tolerance_for(answers, compute) for name, answers in cases[0].answers.items()}
    records = [record for case in cases if case.padded for record in _judge("padding", keras_run, case, tolerances)]
    for format_, runner in (("saved_model", saved_model_runner), ("onnx", onnx_runner)):
        with runner(directory, serving.signature) as run:
            for case in cases:
                records += _judge(format_, run, case, tolerances)
    by_output: dict[tuple[str, str], list[ParityRecord]] = {}
    for record in records:
        by_output.setdefault((record.format, record.output), []).append(record)
    return tuple(merge(group) for group in by_output.values()), cases[0].answers


def keras_runner(serving: ServingModel) -> Run:
    """The Keras model itself, on the CPU: a GPU's TF32 rounding is no reference for anybody."""
    import tensorflow as tf

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        with tf.device("/CPU:0"):
            answers = serving.model({name: tf.constant(rows) for name, rows in inputs.items()}, training=False)
            return {spec.name: np.asarray(answers[spec.name]) for spec in serving.signature.outputs}

    return run


@contextmanager
def onnx_runner(directory: Path, signature: Signature) -> Iterator[Run]:
    """The written ONNX file under the server's backend. Raises ParityError where its tensors are not the signature's."""
    backend = OnnxBackend(directory / ONNX_FILE, BackendOptions(providers=(CPU,)))
    try:
        found = backend.signatures[DEFAULT_SIGNATURE]
        if not _same_tensors(found, signature):
            raise ParityError(f"Expected the ONNX file to have {_words(signature)}. Received: {_words(found)}.")
        yield lambda inputs: backend.run(DEFAULT_SIGNATURE, inputs, ())
    finally:
        backend.close()


@contextmanager
def saved_model_runner(directory: Path, signature: Signature) -> Iterator[Run]:
    """The written SavedModel, loaded afresh. Raises ParityError where its one signature is not ours by name."""
    import tensorflow as tf

    with quiet(), tf.device("/CPU:0"):
        loaded = tf.saved_model.load(str(directory))
    if list(loaded.signatures) != [DEFAULT_SIGNATURE]:
        raise ParityError(f"Expected the one signature {DEFAULT_SIGNATURE}. Received: {', '.join(loaded.signatures)}.")
    serve = loaded.signatures[DEFAULT_SIGNATURE]
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

    yield run


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
