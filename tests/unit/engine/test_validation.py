import numpy as np
import pytest

from services.engine.validation import SignaturePlan
from services.errors import InvalidArgument
from services.tensors import BY_NAME, Signature, TensorSpec


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, BY_NAME[dtype], shape)


def plan(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (spec("y", "float32", -1),)) -> SignaturePlan:
    return SignaturePlan(Signature(inputs, outputs))


FEATURES = plan(spec("features", "float32", -1, 3))
PAIR = plan(spec("a", "float32", -1, 2), spec("b", "int64", -1))
TOKENS = plan(spec("tokens", "int32", -1, -1), spec("mask", "bool", -1, -1))
THREE_OUTPUTS = plan(spec("x", "float32", -1), outputs=tuple(spec(name, "float32", -1) for name in "abc"))


def test_rows_are_those_of_the_first_axis():
    assert FEATURES.check({"features": np.zeros((5, 3), np.float32)}) == (5, ())


def test_the_lengths_of_variable_axes_tell_requests_apart():
    inputs = {"tokens": np.zeros((2, 7), np.int32), "mask": np.zeros((2, 4), bool)}
    assert TOKENS.check(inputs) == (2, (7, 4))


def test_a_fixed_first_axis_makes_the_request_one_row():
    fixed = plan(spec("x", "float32", 2, 2))
    assert not fixed.batchable
    assert fixed.check({"x": np.zeros((2, 2), np.float32)}) == (1, ())


def test_an_output_that_counts_no_rows_makes_the_signature_unbatchable():
    assert not plan(spec("x", "float32", -1, 2), outputs=(spec("y", "float32", 1),)).batchable


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        (FEATURES, {}, r"Received: \{\}. Sent extra: \{\}. Missing but required: \{features\}"),
        (FEATURES, {"x": np.zeros((1, 3), np.float32)}, r"Sent extra: \{x\}. Missing but required: \{features\}"),
        (
            FEATURES,
            {"features": np.zeros((1, 3), np.float32), "more": np.zeros(1)},
            r"Sent extra: \{more\}. Missing but required: \{\}",
        ),
        (
            FEATURES,
            {"features": np.zeros((1, 3), np.float64)},
            r"Expected features: float32 \[-1, 3\]. Received: float64 \[1, 3\]",
        ),
        (FEATURES, {"features": np.zeros((1, 3), ">f4")}, "Expected features: float32"),
        (FEATURES, {"features": np.array([[b"a", b"b", b"c"]], object)}, r"Received: string \[1, 3\]"),
        (FEATURES, {"features": np.zeros(3, np.float32)}, r"Received: float32 \[3\]"),
        (FEATURES, {"features": np.zeros((), np.float32)}, r"Received: float32 \[\]"),
        (FEATURES, {"features": np.zeros((1, 3, 1), np.float32)}, r"Received: float32 \[1, 3, 1\]"),
        (FEATURES, {"features": np.zeros((2, 4), np.float32)}, r"Received: float32 \[2, 4\]"),
        (FEATURES, {"features": np.zeros((0, 3), np.float32)}, r"at least one row. Received: an empty batch"),
        (
            PAIR,
            {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.int64)},
            r"same number of rows in every input. Received: a \[2, 2\], b \[3\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected_and_received(signature, inputs, message):
    with pytest.raises(InvalidArgument, match=message):
        signature.check(inputs)


def test_strings_may_come_in_numpy_s_own_types():
    strings = plan(spec("text", "string", -1))
    assert strings.check({"text": np.array([b"a", b"bc"])}) == (2, ())
    assert strings.check({"text": np.array(["a", "bc"])}) == (2, ())
    with pytest.raises(InvalidArgument, match=r"Received: string \[1, 2\]"):
        strings.check({"text": np.array([["a", "bc"]])})


def test_a_rank_the_model_leaves_open_takes_any_shape_of_its_type():
    anything = plan(TensorSpec("x", BY_NAME["float32"], None))
    assert anything.check({"x": np.zeros((2, 3), np.float32)}) == (1, ())
    with pytest.raises(InvalidArgument, match="of any shape"):
        anything.check({"x": np.zeros((2, 3), np.int32)})


def test_outputs_come_in_the_signature_s_order():
    assert THREE_OUTPUTS.choose(("c", "a")) == ("a", "c")


def test_all_outputs_by_name_are_the_same_as_none_named():
    assert THREE_OUTPUTS.choose(("c", "b", "a")) is THREE_OUTPUTS.outputs


@pytest.mark.parametrize(
    ("names", "message"), [(("a", "q"), "not found in signature: q"), (("a", "a"), "duplicate output tensor alias a")]
)
def test_outputs_that_do_not_exist_or_come_twice_are_refused(names, message):
    with pytest.raises(InvalidArgument, match=message):
        THREE_OUTPUTS.choose(names)


ADVISED = SignaturePlan(Signature((spec("x", "float32", -1, 1),), (spec("y", "float32", -1, 1),)), advisory_shapes=True)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2), (1, 2, 3)])
def test_where_shapes_are_advice_any_rank_passes_and_only_like_shapes_share_a_run(shape):
    assert ADVISED.check({"x": np.zeros(shape, np.float32)}) == (shape[0], (shape[1:],))


def test_where_shapes_are_advice_rows_and_element_types_are_still_checked():
    with pytest.raises(InvalidArgument, match="of any shape"):
        ADVISED.check({"x": np.zeros((2, 1), np.float64)})
    with pytest.raises(InvalidArgument, match="number of rows"):
        ADVISED.check({"x": np.float32(1)[()].reshape(())})
    with pytest.raises(InvalidArgument, match="at least one row"):
        ADVISED.check({"x": np.zeros((0, 1), np.float32)})
