"""Numbers read in bulk are those that are read one by one."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from services.protocols.json_arrays import flatten, to_array
from services.protocols.json_numbers import number_bytes, read_numbers
from services.tensors import BY_NAME

LEAVES = st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False, width=32))
ANYTHING = st.recursive(
    st.one_of(LEAVES, st.booleans(), st.none(), st.text("[],1ul", max_size=2)),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    array=npst.arrays(np.float32, npst.array_shapes(max_dims=4, max_side=4), elements=LEAVES),
    indent=st.sampled_from([None, 1]),
)
def test_regular_lists_of_numbers_are_read(array, indent):
    found = read_numbers(json.dumps(array.tolist(), indent=indent).encode())
    assert found is not None
    numbers, shape = found
    assert shape == array.shape
    assert number_bytes(numbers, BY_NAME["float32"]) == array.tobytes()


@given(value=st.lists(ANYTHING, max_size=4), cut=st.integers(0, 1))
def test_whatever_is_read_is_what_a_parser_reads(value, cut):
    text = json.dumps(value).encode()
    text = text[: len(text) - cut]
    found = read_numbers(text)
    if found is None:
        return
    flat = flatten(orjson.loads(text))
    assert flat is not None
    assert (list(found[0]), found[1]) == flat
    assert {type(leaf) for leaf in flat[0]} <= {int, float}


@given(text=st.lists(st.sampled_from(["[", "[", "]", "]", ",", ",", "1", "-", ".5", "e", " "]), max_size=14))
def test_what_is_no_json_is_not_read(text):
    body = "".join(["[", *text]).encode()
    if read_numbers(body) is not None:
        orjson.loads(body)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[]",
            "[[]]",
            "[[],[1]]",
            "[[1],[]]",
            "[[1,2],[3]]",
            "[1,[2]]",
            "[[1],2]",
            "[1 2]",
            "[[1][2]]",
            "[1,]",
            "[,1]",
        ),
        *("[true]", "[null]", '["1"]', "[NaN]", "[-Infinity]", "[1]]", "[[1]", "[1.]", "[--1]", "[01]", "[1]2"),
        *("[[1]2,[3]]", "[5[],[3]]", "[[1],2[3]]", "[[] 1,[2]]", "[1 [2],[3]]", "[[1]],[[2]]", "[1],[2]", "[[1] [2]]"),
    ],
)
def test_anything_else_is_left_to_the_general_reader(text):
    assert read_numbers(text.encode()) is None


@pytest.mark.parametrize("wrong", ["[1]2", "2[1]"])
def test_a_number_beside_a_list_is_found_in_a_long_text(wrong):
    rows = ["[1]"] * 999
    assert read_numbers(f"[{','.join([*rows, '[2]'])}]".encode()) == ([1] * 999 + [2], (1000, 1))
    assert read_numbers(f"[{','.join([*rows, wrong])}]".encode()) is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "int64"])
@pytest.mark.parametrize("numbers", [[1, 2], [1.5], [300], [-1], [2**63], [10**400], [1e39]])
def test_numbers_become_the_bytes_that_they_become_one_by_one(dtype, numbers):
    array = to_array(numbers, (len(numbers),), BY_NAME[dtype])
    assert number_bytes(numbers, BY_NAME[dtype]) == (None if array is None else array.tobytes())
