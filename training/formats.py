"""Both formats of one function: a SavedModel and an ONNX file that share names, shapes and order.

One `tf.function` takes a dict of the signature's inputs and returns a dict of its outputs. Keras writes it as
`serving_default`; tf2onnx converts it after its variables and captured constants were folded in.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.engine.request import DEFAULT_SIGNATURE
from services.errors import FailedPrecondition, InvalidArgument
from services.tensors import DYNAMIC, Signature, TensorSpec

if TYPE_CHECKING:
    import keras

OPSET = 18
"""The newest operator set tf2onnx writes; its IR version, 8, is read by every ONNX Runtime of the last years."""
LARGEST_ONNX_BYTES = 2**31 - 2**24
"""A protobuf message holds less than 2 GiB; the margin is for the graph itself."""


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


def write_saved_model(directory: Path, model: "keras.Model", function: Any) -> None:
    """Write a SavedModel whose only signature is `serving_default`, in TensorFlow Serving's layout."""
    import keras
    import tensorflow as tf

    with quiet():
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(DEFAULT_SIGNATURE, function)
        try:
            archive.write_out(str(directory), verbose=False)
        except tf.errors.OpError as error:
            raise OSError(f"TensorFlow could not write the SavedModel: {error.message}") from error


def write_onnx(path: Path, model: "keras.Model", function: Any, signature: Signature, *, name: str) -> None:
    """Convert the function and write one ONNX file: inputs and outputs in the signature's order, free axes symbolic.

    Raises InvalidArgument for a model over 2 GiB and FailedPrecondition for operations ONNX has no counterpart of.
    """
    import onnx

    size = sum(int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize for weight in model.weights)
    if size > LARGEST_ONNX_BYTES:
        raise InvalidArgument(
            f"Expected weights of at most {LARGEST_ONNX_BYTES:,} bytes: an ONNX file holds no more. Received: {size:,}."
        )
    with quiet():
        proto = _convert(function, signature)
    _check_operations(proto)
    _order(proto.graph.input, signature.inputs)
    _order(proto.graph.output, signature.outputs)
    proto.graph.name = name
    proto.doc_string = ""
    proto.producer_name = "cornet"
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def layers_of(model: "keras.Model") -> Iterator[Any]:
    """Every layer of a model, those inside other layers included."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from layers_of(layer)
        inner = getattr(layer, "layer", None)  # Bidirectional and TimeDistributed wrap one
        if inner is not None:
            yield inner
            yield from layers_of(inner)


def _convert(function: Any, signature: Signature) -> Any:
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # tf2onnx takes every captured tensor for an input (a Normalization layer's mean is one), so they are folded before.
    concrete = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    # Dicts flatten in the order of their sorted keys, in both directions.
    inputs = dict(zip((t.name for t in frozen.inputs), sorted(spec.name for spec in signature.inputs), strict=True))
    outputs = dict(zip((t.name for t in frozen.outputs), sorted(spec.name for spec in signature.outputs), strict=True))
    with tf.device("/cpu:0"):
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(add_shapes=True),
            name="serving_default",
            input_names=list(inputs),
            output_names=list(outputs),
            tensors_to_rename=inputs | outputs,
            opset=OPSET,
        )
    return proto


def _check_operations(proto: Any) -> None:
    import onnx

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    unknown = sorted(
        {
            node.op_type
            for node in proto.graph.node
            if not onnx.defs.has(node.op_type, versions.get(node.domain, OPSET), node.domain)
        }
    )
    if unknown:
        raise FailedPrecondition(
            f"Expected a model of operations that ONNX has at opset {OPSET}. Received: {', '.join(unknown)}. "
            "What works on text or tables of strings belongs in a processor, before the model."
        )


def _order(values: Any, specs: Sequence[TensorSpec]) -> None:
    """Put graph inputs or outputs in the signature's order, with its shapes and a name for each free axis."""
    by_name = {value.name: value for value in values}
    if set(by_name) != {spec.name for spec in specs}:
        raise FailedPrecondition(
            f"Expected the ONNX graph to have {', '.join(spec.name for spec in specs)}. Received: {', '.join(by_name)}."
        )
    ordered = []
    for spec in specs:
        value = by_name[spec.name]
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis, length in enumerate(spec.shape or ()):
            if length == DYNAMIC:
                shape.dim.add().dim_param = "batch" if axis == 0 else f"{spec.name}_axis_{axis}"
            else:
                shape.dim.add().dim_value = length
        ordered.append(value)
    del values[:]
    values.extend(ordered)


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
    """Trace recurrent layers without cuDNN's operation, which neither ONNX nor a server without a GPU has."""
    chosen = [(layer, layer.use_cudnn) for layer in layers_of(model) if hasattr(layer, "use_cudnn")]
    try:
        for layer, _ in chosen:
            layer.use_cudnn = False
        yield
    finally:
        for layer, choice in chosen:
            layer.use_cudnn = choice
