"""Rewrite what tf2onnx spells out into the ONNX operation it means.

ONNX Runtime fuses at load what it knows (a MatMul and its bias, an activation, a convolution's batch normalisation), so
none of that is done here. What neither it nor its transformer optimiser knows is how Keras on TensorFlow spells three
things: a dense layer on sequences (flattened, multiplied, given its shape back), a layer normalisation (twelve operations),
and the shape of what a Flatten or a recurrent layer starts from (computed anew for each batch). They are half of the nodes
of a transformer.

Only operations of ONNX's own domain are written: the file stays portable. A rule applies where the graph proves it right,
and the parity gate judges the result like any other file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from services.tensors import DYNAMIC

_MOST_PASSES = 8
_RECURRENT = ("LSTM", "GRU", "RNN")
_STATES = slice(5, 7)
"""Inputs of ONNX's recurrent operations that hold the first state; left out, it is zero."""

Length = int | tuple[str, int] | None
"""One length of a shape: a number, an axis of a tensor, or unknown."""


def rewrite(proto: Any) -> dict[str, int]:
    """Apply the rules in place until none applies. Returns how often each did."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.input, *inferred.value_info)}
    applied: Counter[str] = Counter()
    for _ in range(_MOST_PASSES):
        before = applied.total()
        for name, rule in _RULES.items():
            graph = _Graph(proto, shapes)
            applied[name] += sum(rule(graph, node) for node in list(proto.graph.node))
            _sweep(proto)
        if applied.total() == before:
            break
    return {name: count for name, count in applied.items() if count}


class _Graph:
    """Who makes what, who reads it, what is constant, and what is known of a tensor's shape."""

    def __init__(self, proto: Any, shapes: Mapping[str, Any]) -> None:
        from onnx import numpy_helper

        self.proto = proto
        self.maker = {name: node for node in proto.graph.node for name in node.output if name}
        self.readers = Counter(name for node in proto.graph.node for name in node.input)
        self.readers.update(value.name for value in proto.graph.output)
        self.ranks = {name: len(axes) for name, axes in shapes.items()}
        self.widths = {name: axes[-1].dim_value for name, axes in shapes.items() if axes}
        self._initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._numpy = numpy_helper.to_array

    def constant(self, name: str) -> np.ndarray | None:
        tensor = self._initializers.get(name)
        return None if tensor is None else np.asarray(self._numpy(tensor))

    def made_by(self, name: str, operation: str) -> Any:
        """The node of that kind that makes the tensor, or None."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == operation else None

    def split(self, node: Any, operation: str) -> tuple[Any, str] | None:
        """Of a node with two exchangeable inputs: the node of that kind which makes one, and the other's name."""
        for made, other in ((0, 1), (1, 0)):
            maker = self.made_by(node.input[made], operation)
            if maker is not None:
                return maker, node.input[other]
        return None

    def add_constant(self, stem: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = stem
        while name in self._initializers:
            name += "_"
        tensor = numpy_helper.from_array(values, name)
        self.proto.graph.initializer.append(tensor)
        self._initializers[name] = tensor
        return name

    def lengths(self, name: str) -> list[Length] | None:
        """The elements of a 1-D integer tensor that holds a shape, as far as the graph says; None where it does not."""
        constant = self.constant(name)
        if constant is not None:
            return [int(value) for value in constant] if constant.ndim == 1 else None
        node = self.maker.get(name)
        if node is None:
            return None
        if node.op_type == "Cast":
            return self.lengths(node.input[0])
        if node.op_type == "Concat":
            parts = [self.lengths(part) for part in node.input]
            return None if any(part is None for part in parts) else [length for part in parts for length in part or ()]
        if node.op_type in ("Slice", "Gather"):
            return self._picked(node)
        return None

    def _picked(self, node: Any) -> list[Length] | None:
        """Elements taken by constant indices out of a shape, of a tensor's own shape too."""
        wanted = [self.constant(name) for name in node.input[1:]]
        if any(values is None for values in wanted):
            return None
        if node.op_type == "Gather":
            indices = np.asarray(wanted[0])
            if indices.ndim != 1 or (indices < 0).any():
                return None
            positions = indices.tolist()
        else:
            start, stop, *rest = (int(np.asarray(values).ravel()[0]) for values in wanted)
            if not 0 <= start < stop or stop - start > 8 or rest[1:] not in ([], [1]):
                return None
            positions = list(range(start, stop))
        source = node.input[0]
        while (cast := self.made_by(source, "Cast")) is not None:
            source = cast.input[0]
        shape = self.made_by(source, "Shape")
        if shape is not None and not shape.attribute:
            return [(shape.input[0], position) for position in positions]
        known = self.lengths(source)
        return [known[i] for i in positions] if known is not None and max(positions) < len(known) else None


def _fixed_reshape(graph: _Graph, node: Any) -> bool:
    """Give a Reshape with one unknown length a constant target: ONNX works out one length by itself."""
    if node.op_type != "Reshape" or graph.constant(node.input[1]) is not None:
        return False
    lengths = graph.lengths(node.input[1])
    if lengths is None or any(isinstance(length, int) and length < 1 for length in lengths):
        return False
    if sum(not isinstance(length, int) for length in lengths) > 1:
        return False
    target = [length if isinstance(length, int) else DYNAMIC for length in lengths]
    node.input[1] = graph.add_constant(f"{node.output[0]}_shape", np.array(target, np.int64))
    return True


def _dense(graph: _Graph, node: Any) -> bool:
    """Reshape(MatMul(Reshape(x, [-1, k]), w), [*x.shape[:-1], n]) is MatMul(x, w)."""
    if node.op_type != "Reshape":
        return False
    product = graph.made_by(node.input[0], "MatMul")
    flat = None if product is None else graph.made_by(product.input[0], "Reshape")
    weights = None if product is None else graph.constant(product.input[1])
    if flat is None or weights is None or weights.ndim != 2 or graph.readers[product.output[0]] != 1:
        return False
    x, target = flat.input[0], graph.lengths(node.input[1])
    if graph.lengths(flat.input[1]) != [DYNAMIC, weights.shape[0]] or target is None or len(target) < 2:
        return False
    if target != [*((x, axis) for axis in range(len(target) - 1)), weights.shape[1]]:
        return False
    if (graph.ranks.get(x), graph.widths.get(x)) != (len(target), weights.shape[0]):
        return False  # not its last axis alone is multiplied, or nobody knows
    product.input[0], product.output[0] = x, node.output[0]
    node.output[0] = ""
    return True


def _layer_normalization(graph: _Graph, node: Any) -> bool:
    """Keras spells it `x * g + (beta - mean * g)` with `g = gamma / sqrt(variance + epsilon)`, over the last axis."""
    from onnx import helper

    if node.op_type != "Add":
        return False
    found = _normalized(graph, node)
    if found is None:
        return False
    x, gamma, beta, epsilon = found
    weights = [
        graph.add_constant(f"{node.output[0]}_{name}", values) for name, values in (("gamma", gamma), ("beta", beta))
    ]
    fused = helper.make_node(
        "LayerNormalization", [x, *weights], list(node.output), name=node.name, axis=-1, epsilon=epsilon
    )
    node.CopyFrom(fused)
    return True


def _normalized(graph: _Graph, node: Any) -> tuple[str, np.ndarray, np.ndarray, float] | None:
    """Input, gamma, beta and epsilon of the normalisation that ends in this Add."""
    for left, right in (node.input, reversed(node.input)):
        scaled, shifted = graph.made_by(left, "Mul"), graph.made_by(right, "Add")
        parts = None if scaled is None or shifted is None else graph.split(shifted, "Mul")
        if scaled is None or parts is None:
            continue
        moved, beta_name = parts
        gain = graph.split(scaled, "Mul")
        negative = graph.split(moved, "Neg")
        if (
            gain is None
            or negative is None
            or moved.input[0 if negative[1] == moved.input[0] else 1] != gain[0].output[0]
        ):
            continue
        x, inverse = gain[1], graph.split(gain[0], "Reciprocal")
        gamma, beta = (None if name is None else graph.constant(name) for name in (inverse and inverse[1], beta_name))
        if inverse is None or gamma is None or beta is None:
            continue
        epsilon = _variance_epsilon(graph, inverse[0], x, mean=negative[0].input[0])
        width = gamma.size
        shapes = (gamma.shape[-1:], beta.shape[-1:], (beta.size,), (graph.widths.get(x),))
        if epsilon is None or any(shape != (width,) for shape in shapes):
            continue
        return x, gamma.reshape(width), beta.reshape(width), epsilon
    return None


def _variance_epsilon(graph: _Graph, reciprocal: Any, x: str, mean: str) -> float | None:
    """Epsilon, where the node is 1 / sqrt(mean((x - mean)^2) + epsilon) and both means are over the last axis."""
    root = graph.made_by(reciprocal.input[0], "Sqrt")
    total = None if root is None else graph.made_by(root.input[0], "Add")
    parts = None if total is None else graph.split(total, "ReduceMean")
    epsilon = None if parts is None else graph.constant(parts[1])
    if parts is None or epsilon is None or epsilon.size != 1 or not _over_last_axis(graph, parts[0]):
        return None
    square = graph.made_by(parts[0].input[0], "Mul")
    centred = None if square is None or square.input[0] != square.input[1] else graph.made_by(square.input[0], "Sub")
    first = graph.made_by(mean, "ReduceMean")
    if centred is None or list(centred.input) != [x, mean] or first is None or first.input[0] != x:
        return None
    return float(epsilon.ravel()[0]) if _over_last_axis(graph, first) else None


def _over_last_axis(graph: _Graph, node: Any) -> bool:
    axes = graph.constant(node.input[1]) if len(node.input) > 1 else None
    keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
    return keeps and axes is not None and axes.tolist() == [-1]


def _zero_state(graph: _Graph, node: Any) -> bool:
    """A recurrent layer starts from zeros unless told otherwise: zeros of the batch's size need not be made."""
    if node.op_type not in _RECURRENT:
        return False
    changed = False
    for position, name in enumerate(node.input[_STATES], _STATES.start):
        source = name
        while (wrapped := graph.made_by(source, "Unsqueeze") or graph.made_by(source, "Expand")) is not None:
            source = wrapped.input[0]
        constant = graph.constant(source) if source != name else None
        if constant is not None and not constant.any():
            node.input[position] = ""
            changed = True
    return changed


_RULES: dict[str, Callable[[_Graph, Any], bool]] = {
    "dense": _dense,
    "reshape": _fixed_reshape,
    "layer_normalization": _layer_normalization,
    "zero_state": _zero_state,
}


def _sweep(proto: Any) -> None:
    """Drop nodes and constants that nothing reads. What remains is in order: no rule makes a tensor later than before."""
    graph = proto.graph
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output if name):
            kept.append(node)
            read.update(_reads(node))
    _replace(graph.node, kept[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    made = {name for node in graph.node for name in node.output}
    _replace(graph.value_info, [value for value in graph.value_info if value.name in made])


def _reads(node: Any) -> Sequence[str]:
    """What a node reads, the bodies of its loops and branches included."""
    inner = [
        name
        for attribute in node.attribute
        for body in (attribute.g, *attribute.graphs)
        for part in body.node
        for name in _reads(part)
    ]
    return [name for name in (*node.input, *inner) if name]


def _replace(values: Any, kept: list[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in kept]
    del values[:]
    values.extend(copies)
