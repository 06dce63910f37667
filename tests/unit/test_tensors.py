"""Tensor specifications and the table of element types."""

import numpy as np
import pytest

from services.errors import InvalidArgument, ManifestError
from services.tensors import BY_NAME, BY_NUMPY, BY_OIP, BY_ORT, BY_TF_ENUM, DTYPES, Signature, TensorSpec, dtype_of


def spec(shape, name="x", dtype="float32"):
    return TensorSpec(name, BY_NAME[dtype], shape)


@pytest.mark.parametrize("table", [BY_NAME, BY_TF_ENUM, BY_OIP, BY_ORT, BY_NUMPY])
def test_no_name_stands_for_two_types(table):
    assert len(table) == len(DTYPES)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not dtype.is_string], ids=lambda dtype: dtype.name)
def test_an_array_is_found_by_its_type(dtype):
    array = np.zeros(3, dtype.numpy)
    assert dtype_of(array) is dtype
    assert dtype.itemsize == array.itemsize


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array([b"a"], object)])
def test_every_array_of_words_is_a_string(array):
    assert dtype_of(array).is_string


@pytest.mark.parametrize("array", [np.zeros(1, "complex64"), np.zeros(1, "datetime64[s]"), np.zeros(1, ">f4")])
def test_a_type_outside_the_table_is_refused(array):
    with pytest.raises(InvalidArgument, match="Expected an element type"):
        dtype_of(array)


@pytest.mark.parametrize(
    ("shape", "offered", "fits"),
    [
        ((-1, 4), (7, 4), True),
        ((-1, 4), (0, 4), True),
        ((-1, 4), (7, 5), False),
        ((-1, 4), (4,), False),
        ((-1, 4), (7, 4, 1), False),
        ((-1, -1), (2, 9), True),
        ((), (), True),
        (None, (1, 2, 3), True),
    ],
)
def test_fixed_axes_must_be_equal(shape, offered, fits):
    assert spec(shape).accepts(offered) is fits


@pytest.mark.parametrize(
    ("shape", "batchable"), [((-1, 4), True), ((-1,), True), ((4,), False), ((), False), (None, False)]
)
def test_a_free_first_axis_counts_rows(shape, batchable):
    assert spec(shape).batchable is batchable


def test_a_signature_is_batchable_when_all_its_tensors_are():
    rows, scalar = spec((-1, 2)), spec((), name="y")
    assert Signature((rows,), (rows,)).batchable
    assert not Signature((rows,), (scalar,)).batchable


@pytest.mark.parametrize("shape", [(-1, 4), (), None, (-1, -1, 3)])
def test_json_gives_back_the_same_spec(shape):
    assert TensorSpec.from_json(spec(shape).to_json(), "there") == spec(shape)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"name": "", "dtype": "float32", "shape": []},
        {"name": "x", "dtype": "float", "shape": []},
        {"name": "x", "dtype": "float32", "shape": "4"},
        {"name": "x", "dtype": "float32", "shape": [-2]},
        {"name": "x", "dtype": "float32", "shape": [True]},
        {"name": "x", "dtype": "float32", "shape": [1.0]},
    ],
)
def test_a_malformed_spec_names_its_place(value):
    with pytest.raises(ManifestError, match=r"signatures\.a"):
        TensorSpec.from_json(value, "signatures.a")
