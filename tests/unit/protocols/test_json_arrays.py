"""JSON leaves to arrays and back, exactly, for every element type."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from services.protocols.json_arrays import decode_base64, flatten, number_text, to_array
from services.tensors import BY_NAME, DTYPES

QUICK = settings(deadline=None, max_examples=40)

NUMERIC = [dtype for dtype in DTYPES if not dtype.is_string]
_shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: dtype.name)
@QUICK
@given(data=st.data())
def test_every_value_survives_the_way_to_text_and_back(dtype, data):
    array = data.draw(npst.arrays(dtype.numpy, _shapes))
    leaves, shape = flatten(json.loads(number_text(array)))
    back = to_array(leaves, shape, dtype)
    assert back.dtype == dtype.numpy
    if array.size:
        np.testing.assert_array_equal(back, array)
    else:
        assert back.size == 0


@QUICK
@given(npst.arrays(st.sampled_from([np.float32, np.float64, np.float16]), _shapes.filter(lambda shape: 0 not in shape)))
def test_floats_always_carry_a_point_or_an_exponent(array):
    text = number_text(array).decode().replace("[", "").replace("]", "")
    for token in text.split(","):
        assert token in ("NaN", "Infinity", "-Infinity") or "." in token or "e" in token


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([0.1, 1, 1 / 3], np.float32), "[0.1,1.0,0.33333334]"),
        (np.array([[np.nan, 1], [np.inf, -np.inf]], np.float32), "[[NaN,1.0],[Infinity,-Infinity]]"),
        (np.array(np.nan, np.float64), "NaN"),
        (np.array(2.5, np.float32), "2.5"),
        (np.array([[1, 2], [3, 4]], np.int64).T, "[[1,3],[2,4]]"),
        (np.array([2**64 - 1], np.uint64), "[18446744073709551615]"),
        (np.array([True, False]), "[true,false]"),
        (np.array([1, 2], ">f4"), "[1.0,2.0]"),
        (np.zeros((2, 0), np.float32), "[[],[]]"),
    ],
)
def test_text_of_arrays(array, text):
    assert number_text(array).decode() == text


@pytest.mark.parametrize(
    ("value", "leaves", "shape"),
    [
        (1, [1], ()),
        ([], [], (0,)),
        ([[], []], [], (2, 0)),
        ([[1, 2], [3, 4]], [1, 2, 3, 4], (2, 2)),
        ({"b64": ""}, [{"b64": ""}], ()),
    ],
)
def test_regular_nesting_is_taken_apart(value, leaves, shape):
    assert flatten(value) == (leaves, shape)


@pytest.mark.parametrize("value", [[[1], 2], [1, [2]], [[1, 2], [3]], [[[1]], [2]], [[], 1], [[1], "a"], [[1], {}]])
def test_ragged_nesting_is_told(value):
    assert flatten(value) is None


def test_nesting_beyond_any_tensor_is_told():
    value: list = [1]
    for _ in range(100):
        value = [value]
    assert flatten(value) is None


@pytest.mark.parametrize(
    ("dtype", "leaf"),
    [
        ("float32", "1.5"),
        ("float32", True),
        ("float32", None),
        ("float32", {}),
        ("float64", "NaN"),
        ("int32", 1.0),
        ("int32", True),
        ("int32", 2**31),
        ("int8", -129),
        ("uint8", -1),
        ("uint8", 256),
        ("uint64", -1),
        ("uint64", 2**64),
        ("int64", 2**63),
        ("bool", 1),
        ("bool", "true"),
        ("string", 1),
        ("string", None),
        ("string", {"b64": "*"}),
        ("string", {"other": "aGk="}),
    ],
)
def test_a_leaf_of_another_type_is_never_converted(dtype, leaf):
    good = {"f": 1.0, "i": 1, "u": 1, "b": True, "O": "a"}[BY_NAME[dtype].numpy.kind]
    assert to_array([leaf], (1,), BY_NAME[dtype]) is None
    assert to_array([good, leaf], (2,), BY_NAME[dtype]) is None


def test_a_float_beyond_the_type_becomes_infinite():
    for name in ("float16", "float32"):
        assert to_array([1e300, -1e300], (2,), BY_NAME[name]).tolist() == [np.inf, -np.inf]


def test_integers_beyond_every_float_are_refused():
    assert to_array([10**400], (1,), BY_NAME["float32"]) is None


@pytest.mark.parametrize(
    ("text", "value"), [("aGVsbG8=", b"hello"), ("aGVsbG8", b"hello"), ("", b""), ("aGVs\nbG8=", b"hello")]
)
def test_base64_is_read_with_or_without_padding(text, value):
    assert decode_base64({"b64": text}) == value


@pytest.mark.parametrize(
    "value", [{"b64": "a"}, {"b64": "aGk=?"}, {"b64": "aGk=", "x": 1}, {"b64": 5}, "aGk=", {"b64": "é"}]
)
def test_what_is_no_base64_object_is_none(value):
    assert decode_base64(value) is None
