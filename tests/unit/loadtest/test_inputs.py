import json

import numpy as np
import pytest

from services.errors import DataError, InvalidArgument
from services.loadtest.inputs import generate, read_arrays, read_logged
from services.tensors import BY_NAME, DTYPES, Signature, TensorSpec


def signature(*specs: TensorSpec) -> Signature:
    return Signature(specs, ())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_inputs_have_the_signatures_types_and_shapes(dtype) -> None:
    spec = TensorSpec("x", dtype, (-1, -1, 3))

    array = generate(signature(spec), np.random.default_rng(0), rows=4, variable_axis=7)["x"]

    assert array.shape == (4, 7, 3)
    assert array.dtype == dtype.numpy
    assert not dtype.is_string or all(type(value) is bytes for value in array.ravel())


def test_a_seed_repeats_the_inputs() -> None:
    spec = TensorSpec("x", BY_NAME["float32"], (-1, 5))
    first, again, other = (generate(signature(spec), np.random.default_rng(seed))["x"] for seed in (3, 3, 4))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_shape_that_is_given_wins_if_it_fits() -> None:
    spec = TensorSpec("x", BY_NAME["int32"], (-1, -1))
    rng = np.random.default_rng(0)

    assert generate(signature(spec), rng, shapes={"x": (2, 9)})["x"].shape == (2, 9)
    with pytest.raises(InvalidArgument, match="fits x"):
        generate(signature(spec), rng, shapes={"x": (2, 9, 1)})
    with pytest.raises(InvalidArgument, match="Received: y"):
        generate(signature(spec), rng, shapes={"y": (2,)})


def test_scalars_and_unknown_ranks_get_values() -> None:
    scalar, free = TensorSpec("s", BY_NAME["float32"], ()), TensorSpec("f", BY_NAME["int64"], None)

    arrays = generate(signature(scalar, free), np.random.default_rng(0), rows=3)

    assert (arrays["s"].shape, arrays["f"].shape) == ((), (3,))


def test_an_npz_file_is_read_and_anything_else_refused(tmp_path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.ones((2, 3), np.float32), words=np.array(["a", "é"]))
    arrays = read_arrays(path)

    assert arrays["x"].shape == (2, 3)
    assert arrays["words"].tolist() == [b"a", "é".encode()]
    other = tmp_path / "other.npz"
    other.write_bytes(b"no archive")
    with pytest.raises(DataError, match="NPZ"):
        read_arrays(other)
    np.savez(path)
    with pytest.raises(DataError, match="at least one"):
        read_arrays(path)


def test_the_inputs_of_a_request_log_are_those_the_model_answered(tmp_path) -> None:
    path = tmp_path / "requests.jsonl"
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}
    line = {"code": "OK", "model": "m", "signature": "serving_default", "inputs": [tensor]}
    others = [{**line, "model": "n"}, {**line, "code": "INTERNAL"}, {**line, "inputs": [{**tensor, "data": None}]}]
    path.write_text("".join(json.dumps(one) + "\n" for one in (*others, line, line, line)))

    logged = read_logged(path, "m", "serving_default", 2)

    assert [arrays["x"].tolist() for arrays in logged] == [[[1.0], [2.0]]] * 2
    with pytest.raises(DataError, match="CORNET_REQUEST_LOG_PAYLOADS"):
        read_logged(path, "absent", "serving_default", 2)
