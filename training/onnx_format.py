"""One ONNX file of the function a model is served by.

tf2onnx converts it, after its variables and captured constants were folded in; `training.onnx_rewrites` shortens what it
wrote. Inputs and outputs get the signature's order, and a name for each free axis.

The file holds operations of ONNX's own domain alone, so that any runtime reads it. What ONNX Runtime's offline passes would
add are the fusions it makes at load anyway (`FusedGemm`, `FusedConv`), which only ONNX Runtime reads; measured on the
families, they changed no latency, and `MultiHeadAttention` for the transformer's attention gained at most 5 % on a CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import CornetError, FailedPrecondition, InvalidArgument
from services.tensors import DYNAMIC, Signature, TensorSpec
from training.formats import quiet
from training.onnx_rewrites import rewrite

if TYPE_CHECKING:
    import keras

OPSET = 18
"""The newest operator set tf2onnx writes; its IR version, 8, is read by every ONNX Runtime of the last years."""
LARGEST_ONNX_BYTES = 2**31 - 2**24
"""A protobuf message holds less than 2 GiB; the margin is for the graph itself."""


def write_onnx(path: Path, model: "keras.Model", function: Any, signature: Signature, *, name: str) -> None:
    """Convert the function and write one ONNX file: inputs and outputs in the signature's order, free axes symbolic.

    Raises InvalidArgument for a model over 2 GiB and FailedPrecondition for operations ONNX has no counterpart of.
    """
    import onnx

    _check_size(model)
    try:
        with quiet():
            proto = _convert(function, signature)
    except CornetError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        raise FailedPrecondition(f"tf2onnx cannot convert the model: {type(error).__name__}: {reason}") from error
    _check_operations(proto)
    rewrite(proto)
    _order(proto.graph.input, signature.inputs)
    _order(proto.graph.output, signature.outputs)
    proto.graph.name = name
    proto.doc_string = ""
    proto.producer_name = "cornet"
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _convert(function: Any, signature: Signature) -> Any:
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # tf2onnx takes every captured tensor for an input (a Normalization layer's mean is one), so they are folded before.
    concrete = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    if len(frozen.inputs) != len(signature.inputs):
        raise FailedPrecondition(
            "Expected a model without lookup tables, which ONNX does not hold. Received one; look values up in a processor, "
            "before the model."
        )
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
            custom_op_handlers=dict(_HANDLERS),
        )
    return proto


def _erfc(graph: Any, node: Any, _name: str, _arguments: Any) -> Any:
    """1 - erf(x). TensorFlow's exact gelu is made of it."""
    return _with_one(graph, node, "Erf", one_first=True)


def _expm1(graph: Any, node: Any, _name: str, _arguments: Any) -> Any:
    """exp(x) - 1, of which celu is made."""
    return _with_one(graph, node, "Exp", one_first=False)


def _with_one(graph: Any, node: Any, operation: str, *, one_first: bool) -> Any:
    """Replace a TensorFlow node by an ONNX operation and its difference from 1: ONNX has no single operation for it."""
    import onnx

    shapes, dtypes = node.output_shapes, node.output_dtypes
    result, inputs = node.output[0], list(node.input)
    kind = onnx.helper.tensor_dtype_to_np_dtype(graph.get_dtype(inputs[0]))
    graph.remove_node(node.name)
    value = graph.make_node(operation, inputs, shapes=shapes, dtypes=dtypes).output[0]
    one = graph.make_const(f"{node.name}_one", np.array(1, kind)).output[0]
    terms = [one, value] if one_first else [value, one]
    return graph.make_node("Sub", terms, outputs=[result], name=node.name, shapes=shapes, dtypes=dtypes)


_HANDLERS: dict[str, tuple[Any, list[str]]] = {"Erfc": (_erfc, []), "Expm1": (_expm1, [])}
"""TensorFlow operations that tf2onnx does not know."""


def _check_size(model: "keras.Model") -> None:
    size = sum(int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize for weight in model.weights)
    if size > LARGEST_ONNX_BYTES:
        raise InvalidArgument(
            f"Expected weights of at most {LARGEST_ONNX_BYTES:,} bytes: an ONNX file holds no more. Received: {size:,}."
        )


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
            "Build the model without the layers that use them, or move those out of it, before or after."
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
