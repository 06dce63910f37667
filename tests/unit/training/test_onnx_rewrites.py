"""What tf2onnx spells out becomes the operation it means, and only where the graph proves it. No TensorFlow."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from training.onnx_rewrites import rewrite

RNG = np.random.default_rng(0)
FLOAT = onnx.TensorProto.FLOAT

DENSE = """
    flat = Reshape(x, rows)
    product = MatMul(flat, w)
    shape = Shape(x)
    narrow = Cast<to=6>(shape)
    lead = Gather<axis=0>(narrow, leading)
    target = Concat<axis=0>(lead, units)
    wide = Cast<to=7>(target)
    y = Reshape(product, wide)
"""
NORMALIZATION = """
    mean = ReduceMean<keepdims=1>(x, last)
    minus = Neg(mean)
    centred = Sub(x, mean)
    square = Mul(centred, centred)
    variance = ReduceMean<keepdims=1>(square, last)
    safe = Add(variance, epsilon)
    root = Sqrt(safe)
    inverse = Reciprocal(root)
    gain = Mul(inverse, gamma)
    scaled = Mul(x, gain)
    moved = Mul(minus, gain)
    shift = Add(moved, beta)
    y = Add(scaled, shift)
"""
FLATTEN = """
    shape = Shape(x)
    narrow = Cast<to=6>(shape)
    batch = Slice(narrow, zero, one)
    target = Concat<axis=0>(batch, units)
    wide = Cast<to=7>(target)
    y = Reshape(x, wide)
"""
STATE = """
    shape = Shape(x)
    batch = Slice(shape, one, two)
    size = Concat<axis=0>(one, batch, hidden)
    start = Expand(nothing, size)
    states, y = LSTM<hidden_size=3>(x, w, r, b, , start, start)
"""


def model(body: str, shape: list, rank: int, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph from `x` to `y` of the given operations."""
    graph = onnx.parser.parse_graph(f"g (float[n] x) => (float[n] y) {{ {body} }}")
    x = helper.make_tensor_value_info("x", FLOAT, shape)
    y = helper.make_tensor_value_info("y", FLOAT, [None] * rank)
    initializers = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    built = helper.make_graph(graph.node, "g", [x], [y], initializers)
    proto = helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def answer(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def rewritten(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int], Counter]:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    applied = rewrite(copy)
    onnx.checker.check_model(copy, full_check=True)
    return copy, applied, Counter(node.op_type for node in copy.graph.node)


def dense(shape: list, *, rows: int = 4, leading: tuple[int, ...] = (0, 1)) -> onnx.ModelProto:
    return model(
        DENSE,
        shape,
        3,
        rows=[-1, rows],
        w=RNG.standard_normal((rows, 6)).astype("f4"),
        leading=list(leading),
        units=np.array([6], np.int32),
    )


def normalization(shape: list, **changes) -> onnx.ModelProto:
    constants = {
        "last": np.array([-1]),
        "epsilon": np.array(1e-3, "f4"),
        "gamma": RNG.standard_normal((1, 1, 5)).astype("f4"),
        "beta": RNG.standard_normal((1, 1, 5)).astype("f4"),
    }
    return model(NORMALIZATION, shape, 3, **(constants | changes))


def test_a_dense_layer_on_sequences_is_one_multiplication():
    before = dense(["batch", "length", 4])
    after, applied, operations = rewritten(before)
    assert (applied, operations) == ({"dense": 1}, {"MatMul": 1})
    x = RNG.standard_normal((3, 7, 4)).astype("f4")
    assert np.array_equal(answer(after, x), answer(before, x))


@pytest.mark.parametrize(
    ("shape", "rows", "leading"),
    [
        pytest.param(["batch", "length", 2, 2], 4, (0, 1), id="two axes are multiplied"),
        pytest.param(["batch", "length", None], 4, (0, 1), id="a last axis of unknown length"),
        pytest.param(["batch", "batch", 4], 4, (1, 0), id="axes exchanged"),
    ],
)
def test_a_multiplication_that_is_no_dense_layer_on_the_last_axis_stays(shape, rows, leading):
    before = dense(shape, rows=rows, leading=leading)
    _, applied, operations = rewritten(before)
    assert "dense" not in applied
    assert operations["Reshape"] == 2


def test_a_product_that_somebody_else_reads_keeps_its_shape():
    before = dense(["batch", "length", 4])
    before.graph.output.append(helper.make_tensor_value_info("product", FLOAT, [None, 6]))
    assert rewritten(before)[1] == {}


def test_a_layer_normalization_is_one_operation():
    before = normalization(["batch", "length", 5])
    after, applied, operations = rewritten(before)
    assert (applied, operations) == ({"layer_normalization": 1}, {"LayerNormalization": 1})
    x = 3 * RNG.standard_normal((2, 4, 5)).astype("f4") + 1
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"last": np.array([1])}, id="over another axis"),
        pytest.param({"gamma": np.ones((1, 4, 1), "f4")}, id="a gain per row"),
        pytest.param({"epsilon": np.full(5, 1e-3, "f4")}, id="an epsilon per column"),
    ],
)
def test_arithmetic_that_is_no_layer_normalization_stays(changes):
    assert rewritten(normalization(["batch", 4, 5], **changes))[1] == {}


def test_a_shape_with_one_unknown_length_is_a_constant():
    units = np.array([12], np.int32)
    before = model(FLATTEN, ["batch", 3, 4], 2, zero=[0], one=[1], units=units)
    after, applied, operations = rewritten(before)
    assert (applied, operations) == ({"reshape": 1}, {"Reshape": 1})
    for rows in (0, 1, 5):
        x = RNG.standard_normal((rows, 3, 4)).astype("f4")
        assert np.array_equal(answer(after, x), answer(before, x))


def test_a_shape_with_two_unknown_lengths_is_computed():
    before = model(FLATTEN, ["batch", "length", 3, 4], 3, zero=[0], one=[2], units=np.array([12], np.int32))
    assert rewritten(before)[1] == {}


@pytest.mark.parametrize(("start", "changes"), [(0.0, 1), (0.5, 0)])
def test_a_recurrent_layer_is_told_its_first_state_only_where_it_is_not_zero(start, changes):
    weights = {name: RNG.standard_normal((1, 12, size)).astype("f4") for name, size in (("w", 2), ("r", 3))}
    before = model(
        STATE,
        [4, "batch", 2],
        3,
        one=[1],
        two=[2],
        hidden=[3],
        nothing=np.float32(start),
        **weights,
        b=np.zeros((1, 24), "f4"),
    )
    after, applied, _ = rewritten(before)
    assert sum(applied.values()) == changes
    x = RNG.standard_normal((4, 3, 2)).astype("f4")
    assert np.array_equal(answer(after, x), answer(before, x))


def test_rewriting_again_changes_nothing():
    after, _, _ = rewritten(normalization(["batch", "length", 5]))
    again, applied, _ = rewritten(after)
    assert applied == {}
    assert again == after
