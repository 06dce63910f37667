"""The functions both formats are written from, one per signature, and the SavedModel of them.

A `tf.function` takes a dict of the signature's inputs and returns a dict of its outputs, so that SavedModel, ONNX and
manifest share names. `training.onnx_format` converts it to ONNX.
"""

import errno
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import InvalidArgument
from services.files import FULL_DISK
from services.tensors import DYNAMIC, Signature, TensorSpec

if TYPE_CHECKING:
    import keras

_PLAIN = {"use_cudnn": False, "dropout": 0.0, "recurrent_dropout": 0.0}
"""Attributes of recurrent layers and cells, and their values while a model is traced for inference."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what TensorFlow, Keras and tf2onnx say about their own insides while they export."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def serving_function(model: "keras.Model", signature: Signature) -> Any:
    """The one function both formats are written from: a dict of named tensors in, a dict of named tensors out.

    Raises InvalidArgument where the model does not take or give what the signature says.
    """
    import tensorflow as tf

    specs = {spec.name: _tensorflow_spec(spec) for spec in signature.inputs}

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        answers = model(inputs, training=False)
        _check_names(answers, signature)
        return {spec.name: tf.identity(answers[spec.name], name=spec.name) for spec in signature.outputs}

    function = tf.function(serve, input_signature=[specs], autograph=False)
    with quiet(), _plain_recurrence(model):
        concrete = function.get_concrete_function()
    for spec in signature.outputs:
        _check_output(spec, concrete.structured_outputs[spec.name])
    return function


def write_saved_model(directory: Path, models: Sequence["keras.Model"], functions: Mapping[str, Any]) -> None:
    """Write a SavedModel in TensorFlow Serving's layout: a function by signature, and the models whose variables they use."""
    import keras
    import tensorflow as tf

    with quiet():
        archive = keras.export.ExportArchive()
        for model in models:
            archive.track(model)
        for signature, function in functions.items():
            archive.add_endpoint(signature, function)
        try:
            archive.write_out(str(directory), verbose=False)
        except tf.errors.OpError as error:
            # TensorFlow has no error of its own for a full disk; it passes on the system's words.
            number = next((full for full in FULL_DISK if os.strerror(full) in str(error.message)), errno.EIO)
            raise OSError(number, os.strerror(number)) from error


def layers_of(model: "keras.Model") -> list[Any]:
    """Every layer of a model, those inside other layers included."""
    return list(model._flatten_layers(include_self=False, recursive=True))  # noqa: SLF001  # Keras has no public way


def _tensorflow_spec(spec: TensorSpec) -> Any:
    import tensorflow as tf

    shape = None if spec.shape is None else [None if length == DYNAMIC else length for length in spec.shape]
    return tf.TensorSpec(shape, spec.dtype.name, name=spec.name)


def _check_names(answers: Any, signature: Signature) -> None:
    wanted = {spec.name for spec in signature.outputs}
    if not isinstance(answers, dict) or set(answers) != wanted:
        received = ", ".join(answers) if isinstance(answers, dict) else type(answers).__name__
        raise InvalidArgument(
            f"Expected a model that returns a dict of {', '.join(sorted(wanted))}. Received: {received}."
        )


def _check_output(spec: TensorSpec, tensor: Any) -> None:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    fits = (
        shape is None
        or spec.shape is None
        or (
            len(shape) == len(spec.shape)
            and all(got is None or want in {DYNAMIC, got} for got, want in zip(shape, spec.shape, strict=True))
        )
    )
    if tensor.dtype.name != spec.dtype.name or not fits:
        raise InvalidArgument(f"Expected output {spec}. Received: {tensor.dtype.name} of shape {tensor.shape}.")


@contextmanager
def _plain_recurrence(model: "keras.Model") -> Iterator[None]:
    """Trace recurrent layers as they infer.

    Without cuDNN's operation, which neither ONNX nor a server without a GPU has, and without dropout masks, which Keras
    draws, advancing a random state, even where it does not apply them.
    """
    changes = [
        (layer, name, getattr(layer, name), plain)
        for layer in layers_of(model)
        for name, plain in _PLAIN.items()
        if name in vars(layer)
    ]
    try:
        for layer, name, _, plain in changes:
            setattr(layer, name, plain)
        yield
    finally:
        for layer, name, chosen, _ in changes:
            setattr(layer, name, chosen)
