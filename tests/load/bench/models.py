"""The models of the benchmark: the peers' five as plain ONNX with random weights, and any repository of cornet's own.

The five have the sizes of the speed table in the README. They are written with `onnx` alone, so that a benchmark starts in
seconds: what a serving figure needs of a model is its cost, not its wisdom.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = ("regressor", "classifier", "cnn", "lstm", "transformer", "autoencoder", "vgg16")
_FAMILY_PREFIX = "family-"
_OPSET, _IR_VERSION = 17, 9
_DATATYPES = {"float": "FP32", "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "double": "FP64"}
_NUMPY = {"FP32": "f4", "FP64": "f8", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "BOOL": "?"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model without its batch axis. `datatype` is the Open Inference Protocol's name."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_NUMPY[self.datatype])


@dataclass(frozen=True)
class Model:
    """A model in `<repository>/<name>/1/model.onnx`, with one input and one output or more."""

    name: str
    path: Path
    input: Tensor
    outputs: tuple[Tensor, ...]

    def rows(self, count: int = 1, seed: int = 0) -> np.ndarray:
        """Input of `count` rows: whole numbers below 100 where the type is whole, else from 0 to 1 at 4 decimals."""
        random = np.random.default_rng(seed)
        shape = (count, *self.input.shape)
        if self.input.dtype.kind in "iu":
            return random.integers(1, 100, shape).astype(self.input.dtype)
        return random.random(shape).round(4).astype(self.input.dtype)

    def expected(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What onnxruntime answers for the rows, by output."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in self.outputs]
        return dict(zip(names, session.run(names, {self.input.name: rows}), strict=True))

    def description(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}


def write_peers_models(root: Path, names: Sequence[str]) -> None:
    """Write those of the five that are asked for and not there yet."""
    for name in names:
        path = root / name / "1" / "model.onnx"
        if name in _WRITERS and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(_WRITERS[name]())
            part.replace(path)


def link_families(root: Path, repository: Path) -> list[str]:
    """Link the newest version of each model of a repository as `family-<name>` version 1. Returns the names."""
    names = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        versions = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        if versions and (versions[-1] / "model.onnx").exists():
            link = root / f"{_FAMILY_PREFIX}{folder.name}" / "1"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(versions[-1].resolve(), target_is_directory=True)
            names.append(link.parent.name)
    return names


def read_models(root: Path, names: Sequence[str]) -> dict[str, Model]:
    """The models by name, as onnxruntime reads them. A variable axis behind the batch is taken as 32."""
    return {name: _read(name, root / name / "1" / "model.onnx") for name in names}


def describe(models: dict[str, Model], path: Path) -> None:
    """Write what the servers of the peers need to know of the models."""
    path.write_text(json.dumps({name: model.description() for name, model in models.items()}, indent=1))


def _read(name: str, path: Path) -> Model:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def tensor(value: Any) -> Tensor:
        shape = tuple(axis if isinstance(axis, int) else 32 for axis in value.shape[1:])
        return Tensor(value.name, _DATATYPES[value.type.removeprefix("tensor(").removesuffix(")")], shape)

    first, *others = session.get_inputs()
    if others:
        raise ValueError(f"Expected a model of one input. Received: {name} with {len(others) + 1}")
    return Model(name, path, tensor(first), tuple(tensor(output) for output in session.get_outputs()))


class _Graph:
    """Nodes and weights of a graph as it is written down, with `x` in and `y` out."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._random = np.random.default_rng(7)

    def add(self, kind: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any) -> str:
        from onnx import helper

        first = output or f"{kind.lower()}_{len(self._nodes)}"
        names = [first, *(f"{first}_{number}" for number in range(1, outputs))]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return first

    def weight(self, *shape: int) -> str:
        """Random weights of the spread that keeps activations in range (Glorot's, by the two last axes)."""
        fan = sum(shape[-2:]) if len(shape) <= 2 else int(np.prod(shape[1:])) + shape[0]
        return self.constant((self._random.standard_normal(shape) * np.sqrt(2.0 / fan)).astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def dense(self, x: str, inputs: int, outputs: int, activation: str = "", output: str = "") -> str:
        product = self.add("MatMul", x, self.weight(inputs, outputs))
        if not activation:
            return self.add("Add", product, self.weight(outputs), output=output)
        return self.add(activation, self.add("Add", product, self.weight(outputs)), output=output)

    def convolution(self, x: str, inputs: int, outputs: int, *, same: bool) -> str:
        padding = [1, 1, 1, 1] if same else [0, 0, 0, 0]
        weights = (self.weight(outputs, inputs, 3, 3), self.weight(outputs))
        return self.add("Relu", self.add("Conv", x, *weights, kernel_shape=[3, 3], pads=padding))

    def pool(self, x: str) -> str:
        return self.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def bytes(self, shape: Sequence[int], outputs: int, element: int = 1) -> bytes:
        from onnx import TensorProto, checker, helper

        first = helper.make_tensor_value_info("x", element, ["batch", *shape])
        last = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])
        graph = helper.make_graph(self._nodes, "bench", [first], [last], self._weights)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="cornet-bench")
        checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def _mlp() -> bytes:
    graph = _Graph()
    hidden = graph.dense(graph.dense("x", 8, 64, "Relu"), 64, 64, "Relu")
    graph.dense(hidden, 64, 1, output="y")
    return graph.bytes([8], 1)


def _cnn() -> bytes:
    graph = _Graph()
    x = graph.add("Transpose", "x", perm=[0, 3, 1, 2])
    x = graph.pool(graph.convolution(x, 1, 16, same=False))
    x = graph.pool(graph.convolution(x, 16, 32, same=False))
    x = graph.dense(graph.add("Flatten", x), 32 * 5 * 5, 100, "Relu")
    graph.add("Softmax", graph.dense(x, 100, 10), output="y", axis=-1)
    return graph.bytes([28, 28, 1], 10)


def _lstm() -> bytes:
    graph, units = _Graph(), 64
    x = graph.add("Transpose", "x", perm=[1, 0, 2])
    weights = (graph.weight(1, 4 * units, 1), graph.weight(1, 4 * units, units), graph.weight(1, 8 * units))
    node = graph.add("LSTM", x, *weights, outputs=2, hidden_size=units)
    last = graph.add("Squeeze", f"{node}_1", graph.constant(np.array([0], np.int64)))
    graph.dense(last, units, 1, output="y")
    return graph.bytes([48, 1], 1)


def _transformer() -> bytes:
    from onnx import TensorProto

    graph, width, heads, length = _Graph(), 64, 4, 64
    x = graph.add("Gather", graph.weight(1000, width), "x")
    split = graph.constant(np.array([0, length, heads, width // heads], np.int64))
    parts = [graph.add("Reshape", graph.dense(x, width, width), split) for _ in range(3)]
    query, key, value = (
        graph.add("Transpose", part, perm=order)
        for part, order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scale = graph.constant(np.array((width / heads) ** -0.5, np.float32))
    scores = graph.add("Softmax", graph.add("Mul", graph.add("MatMul", query, key), scale), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", scores, value), perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", mixed, graph.constant(np.array([0, length, width], np.int64)))
    ones = graph.constant(np.ones(width, np.float32))
    x = graph.add("LayerNormalization", graph.add("Add", x, graph.dense(joined, width, width)), ones)
    wide = graph.dense(graph.dense(x, width, 128, "Relu"), 128, width)
    x = graph.add("LayerNormalization", graph.add("Add", x, wide), ones)
    pooled = graph.add("ReduceMean", x, axes=[1], keepdims=0)
    graph.add("Softmax", graph.dense(pooled, width, 4), output="y", axis=-1)
    return graph.bytes([length], 4, TensorProto.INT32)


def _vgg16() -> bytes:
    graph, channels = _Graph(), 3
    x = graph.add("Transpose", "x", perm=[0, 3, 1, 2])
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x, channels = graph.convolution(x, channels, width, same=True), width
        x = graph.pool(x)
    graph.add("Flatten", graph.add("GlobalAveragePool", x), output="y")
    return graph.bytes([224, 224, 3], 512)


_WRITERS: dict[str, Callable[[], bytes]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "lstm": _lstm,
    "transformer": _transformer,
    "vgg16": _vgg16,
}
PEERS_MODELS = tuple(_WRITERS)
