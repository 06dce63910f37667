"""Half precision for the part of a graph that multiplies matrices, and for nothing around it.

Inputs and outputs stay float32, and so does everything before the first and after the last multiplication: raw units
(a price of 100,000 is beyond half precision's 65,504), standardisation, thresholds, the softmax and the way back to the
target's units. In between, operations that keep to the range of their inputs are converted. A softmax between two
multiplications, reductions, and sums with what comes from before the first (an attention mask of -1e9, a residual) stay
in float32 too, at the price of a conversion.

onnxruntime's own converter is not used: it rounds every tensor between two operations that it was told to leave alone.
"""

from collections import Counter
from typing import Any

import numpy as np

from services.errors import FailedPrecondition

MULTIPLICATIONS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})
_ALONG = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min", "Clip", "Identity"),
        *(
            "Relu",
            "LeakyRelu",
            "Elu",
            "Selu",
            "Celu",
            "Tanh",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Softplus",
            "Softsign",
            "Erf",
        ),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LayerNormalization", "BatchNormalization"),
        *(
            "Transpose",
            "Reshape",
            "Squeeze",
            "Unsqueeze",
            "Flatten",
            "Slice",
            "Split",
            "Concat",
            "Pad",
            "Expand",
            "Tile",
        ),
    }
)
"""What is converted between two multiplications: it neither sums over many elements in the type's own precision nor leaves
the range of what it is given by much."""

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(proto: Any) -> tuple[Counter[str], Counter[str]]:
    """Convert a float32 graph in place. Returns the multiplications converted and those kept, counted by type.

    Raises FailedPrecondition where there is none to convert.
    """
    import onnx

    floats = _float_tensors(proto)
    halves = _halves(proto.graph, floats)
    converted = Counter(node.op_type for node in halves.values() if node.op_type in MULTIPLICATIONS)
    every = Counter(node.op_type for node in proto.graph.node if node.op_type in MULTIPLICATIONS)
    if not converted:
        raise FailedPrecondition("Expected a model with multiplications of float32 matrices. Received one without.")
    _retype(proto.graph, floats, halves)
    onnx.checker.check_model(proto)
    return converted, every - converted


def _float_tensors(proto: Any) -> set[str]:
    """Names of the tensors of type float32."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    named = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return named | {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}


def _halves(graph: Any, floats: set[str]) -> dict[int, Any]:
    """The nodes to convert, by position."""
    nodes = list(enumerate(graph.node))
    constants = {tensor.name for tensor in graph.initializer}
    after: set[str] = set()  # tensors with a multiplication before them
    for _, node in nodes:
        if node.op_type in MULTIPLICATIONS or any(name in after for name in node.input):
            after.update(node.output)
    before = {name for _, node in nodes if node.op_type in MULTIPLICATIONS for name in node.input}
    for _, node in reversed(nodes):
        if any(name in before for name in node.output if name):
            before.update(node.input)
    chosen = {}
    for position, node in nodes:
        if not all(name in floats for name in (*node.input[:1], *node.output[:1])):
            continue
        between = any(name in before for name in node.output if name)
        from_inputs = [name for name in node.input if name in floats and name not in after | constants]
        if node.op_type in MULTIPLICATIONS or (node.op_type in _ALONG and between and not from_inputs):
            chosen[position] = node
    return chosen


def _captured(graph: Any) -> set[str]:
    """What the bodies of loops and branches read from around them: a changed type would not reach them."""
    names: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names |= {name for inner in body.node for name in inner.input} | _captured(body)
    return names


def _retype(graph: Any, floats: set[str], halves: dict[int, Any]) -> None:
    """Let the chosen nodes take and give half precision, with one conversion where a tensor crosses over."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    fixed = {value.name for value in graph.output} | _captured(graph)
    half_tensors = {name for node in halves.values() for name in node.output if name in floats - fixed}
    crossed: dict[str, str] = {}
    nodes = []
    for position, node in enumerate(list(graph.node)):
        to_half = position in halves
        for index, name in enumerate(node.input):
            if name not in floats or (name in half_tensors) == to_half:
                continue
            if name not in crossed:
                crossed[name] = f"{name}_{'fp16' if to_half else 'fp32'}"
                if name in constants:
                    values = np.clip(numpy_helper.to_array(constants[name]), -_LARGEST, _LARGEST).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(values, crossed[name]))
                else:
                    kind = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [crossed[name]], name=crossed[name], to=kind))
            node.input[index] = crossed[name]
        nodes.append(node)
        for index, name in enumerate(node.output if to_half else ()):
            if name in fixed & floats:
                node.output[index] = f"{name}_half"
                nodes.append(helper.make_node("Cast", [node.output[index]], [name], name=name, to=TensorProto.FLOAT))
    read = {name for node in nodes for name in node.input} | _captured(graph)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    del graph.value_info[:]


def _replace(values: Any, kept: list[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in kept]
    del values[:]
    values.extend(copies)
