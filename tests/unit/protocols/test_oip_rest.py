"""The Open Inference Protocol's REST bodies, JSON and binary."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import InvalidArgument, Unimplemented
from services.protocols import oip_rest
from services.tensors import BY_NAME, DTYPES, Signature, TensorSpec

QUICK = settings(deadline=None, max_examples=40)


def decode(document: object, tail: bytes | None = None) -> oip_rest.Infer:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    length = None if tail is None else len(head)
    return oip_rest.decode_infer(head + (tail or b""), length, model="m", version=3, now_s=100.0)


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes


def encode(outputs: dict[str, np.ndarray], **infer: object) -> tuple[dict[str, object], bytes, int | None]:
    asked = oip_rest.Infer(InferenceRequest("m", {}), **infer)
    parts, length = oip_rest.encode_infer(InferenceResponse("m", 7, "serving_default", outputs), asked)
    return json.loads(parts[0]), b"".join(parts[1:]), length


def draw_array(data: st.DataObject, dtype, elements=None) -> np.ndarray:
    shape = data.draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if dtype.is_string:
        return data.draw(npst.arrays(object, shape, elements=st.binary(max_size=8) if elements is None else elements))
    return data.draw(npst.arrays(dtype.numpy, shape, elements=elements))


def resend(document: dict[str, object]) -> dict[str, object]:
    """A response's tensors as a request's."""
    return {"inputs": document["outputs"]}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@QUICK
@given(data=st.data())
def test_every_element_type_makes_the_round_trip_in_binary(dtype, data):
    array = draw_array(data, dtype)
    document, tail, length = encode({"x": array}, binary_default=True)
    assert length == len(json.dumps(document, separators=(",", ":")))
    back = decode(resend(document), tail).request.inputs["x"]
    assert back.dtype == dtype.numpy
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.name != "float16"], ids=lambda dtype: dtype.name)
@QUICK
@given(data=st.data())
def test_every_element_type_but_fp16_makes_the_round_trip_in_json(dtype, data):
    elements = st.text().map(str.encode) if dtype.is_string else None
    if dtype.numpy.kind == "f":
        elements = st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
    array = draw_array(data, dtype, elements)
    document, tail, length = encode({"x": array})
    assert (tail, length) == (b"", None)
    back = decode(resend(document)).request.inputs["x"]
    assert back.dtype == dtype.numpy
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, np.array([[1, 2]], np.float32)),
        ({"data": [[1, 2]]}, np.array([[1, 2]], np.float32)),
        ({"shape": [2], "data": [[1], [2.5]]}, np.array([1, 2.5], np.float32)),
        ({"shape": [], "data": [5]}, np.array(5, np.float32)),
        ({"shape": [0, 2], "data": []}, np.zeros((0, 2), np.float32)),
        ({"datatype": "BOOL", "data": [True, False]}, np.array([[True, False]])),
        ({"datatype": "UINT64", "data": [2**64 - 1, 0]}, np.array([[2**64 - 1, 0]], np.uint64)),
        ({"datatype": "INT64", "data": [2**53 + 1, -(2**63)]}, np.array([[2**53 + 1, -(2**63)]], np.int64)),
        ({"datatype": "BYTES", "data": ["é", ""]}, np.array([["é".encode(), b""]], object)),
    ],
)
def test_json_tensors_that_are_read(changes, want):
    got = decode({"inputs": [tensor(**changes)]}).request.inputs["x"]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)


def test_the_request_says_what_it_wants_back():
    infer = decode(
        {
            "id": "42",
            "inputs": [tensor()],
            "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
            "parameters": {
                "binary_data_output": True,
                "timeout": 250_000,
                "priority": 1,
                "sequence_id": 7,
                "mine": "x",
            },
        }
    )
    assert (infer.id, infer.binary_default, infer.binary) == ("42", True, {"a": False})
    assert infer.request.outputs == ("a", "b")
    assert infer.request.deadline == 100.25
    assert (infer.request.model, infer.request.version) == ("m", 3)


def test_a_timeout_of_zero_is_none():
    assert decode({"inputs": [tensor()], "parameters": {"timeout": 0}}).request.deadline is None


def test_null_is_as_good_as_missing_where_a_member_may_be_missing():
    output = {"name": "y", "parameters": None}
    document = {"id": None, "parameters": None, "inputs": [tensor(parameters=None)], "outputs": [output]}
    infer = decode(document)
    assert (infer.id, infer.binary_default, infer.request.outputs) == ("", False, ("y",))
    assert decode({"inputs": [tensor()], "outputs": None, "parameters": {"timeout": None}}).request.outputs == ()


def test_binary_and_json_tensors_may_be_mixed():
    first = tensor(name="a", shape=[2], parameters={"binary_data_size": 8})
    del first["data"]
    last = {"name": "c", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    tail = struct.pack("<2f", 1.5, 2.5) + struct.pack("<I", 2) + b"hi"
    inputs = decode({"inputs": [first, tensor(name="b"), last]}, tail).request.inputs
    assert inputs["a"].tolist() == [1.5, 2.5]
    assert inputs["b"].tolist() == [[1, 2]]
    assert inputs["c"].tolist() == [b"hi"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"[]", "Is not object"),
        (b'{"inputs": [{"name": "x", "data": [NaN]}]}', "Standard JSON has no NaN"),
        ({}, "Unable to parse 'inputs' of the request: expected a list. Received: none."),
        ({"inputs": {}}, "Unable to parse 'inputs'"),
        ({"inputs": [5]}, "Expected an object per tensor in 'inputs'. Received: 5."),
        ({"inputs": [{}]}, "Unable to parse 'name'"),
        ({"inputs": [tensor(name=5)]}, "Unable to parse 'name'"),
        ({"inputs": [tensor(name="")]}, "Expected a name"),
        ({"inputs": [tensor(), tensor()]}, 'Expected each input once. Received: "x" twice.'),
        (
            {"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]},
            'Expected each output once. Received: "y" twice.',
        ),
        ({"inputs": [tensor(datatype="FP99")]}, "'FP99'"),
        ({"inputs": [tensor(datatype=None)]}, "Unable to parse 'datatype'"),
        ({"inputs": [tensor(shape=2)]}, "Unable to parse 'shape'"),
        ({"inputs": [tensor(shape=[1.0, 2])]}, "Expected integers in the shape"),
        ({"inputs": [tensor(shape=[True, 2])]}, "Expected integers in the shape"),
        ({"inputs": [tensor(shape=[-1, 2])]}, "expected no negative axis"),
        ({"inputs": [tensor(shape=[2**40, 2**40])]}, "expected a shape that fits in memory"),
        ({"inputs": [tensor(shape=[1, 3])]}, 'Tensor "x": expected 3 values for shape [1, 3]. Received: 2.'),
        ({"inputs": [tensor(data=5)]}, "expected a list as data"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "Received: ragged lists"),
        ({"inputs": [tensor(data=["a", 2])]}, 'Tensor "x": expected values of FP32. Received: "a" of type String.'),
        ({"inputs": [tensor(data=[True, 2])]}, "Received: true of type True"),
        ({"inputs": [tensor(data=[None, 2])]}, "Received: null of type Null"),
        ({"inputs": [tensor(datatype="INT32", data=[1.5, 2])]}, "Received: 1.5 of type Number"),
        ({"inputs": [tensor(datatype="UINT8", data=[1, 256])]}, "expected values of UINT8. Received: 256"),
        ({"inputs": [tensor(datatype="BOOL", data=[0, 1])]}, "expected values of BOOL"),
        ({"inputs": [tensor(datatype="BYTES", data=[{"b64": "aGk="}, "a"])]}, "expected values of BYTES. Received: {"),
        ({"inputs": [tensor(shape=[3001], data=[1] * 3000 + ["far"])]}, 'Received: "far" of type String'),
        ({"inputs": [tensor(datatype="FP16")]}, "FP16 data via JSON is not supported"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, "Received: neither"),
        ({"inputs": [tensor(parameters={"binary_data_size": 8})]}, "Received: both"),
        ({"inputs": [tensor(parameters={"binary_data_size": -1})]}, "Expected binary_data_size"),
        ({"inputs": [tensor(parameters={"binary_data_size": "8"})]}, "Expected binary_data_size"),
        ({"inputs": [tensor(parameters=[])]}, "Unable to parse 'parameters'"),
        ({"inputs": [tensor()], "id": 5}, "Unable to parse 'id'"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, "Unable to parse 'binary_data_output'"),
        ({"inputs": [tensor()], "parameters": {"timeout": -1}}, "Expected a timeout in microseconds"),
        ({"inputs": [tensor()], "parameters": {"timeout": 1.5}}, "Unable to parse 'timeout'"),
        ({"inputs": [tensor()], "parameters": {"triton_enable": 1}}, "'triton_' is reserved"),
        ({"inputs": [tensor()], "outputs": {}}, "Unable to parse 'outputs'"),
        (
            {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "Unable to parse 'binary_data'",
        ),
    ],
)
def test_bodies_that_are_refused(document, words):
    with pytest.raises(InvalidArgument) as caught:
        decode(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("size", "tail", "words"),
    [
        (8, b"1234", "unexpected size for input 'x', expecting 4 additional bytes for model 'm'"),
        (8, b"123456789", "unexpected additional input data for model 'm': 1 bytes"),
        (4, b"1234", "expected 8 bytes of FP32 for shape [1, 2]. Received: 4."),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(size, tail, words):
    item = tensor(parameters={"binary_data_size": size})
    del item["data"]
    with pytest.raises(InvalidArgument) as caught:
        decode({"inputs": [item]}, tail)
    assert words in str(caught.value)


@pytest.mark.parametrize("tail", [b"\x05\x00\x00\x00hi", b"\x01\x00", b"\x01\x00\x00\x00a"])
def test_bytes_elements_that_do_not_fit_are_refused(tail):
    item = {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    with pytest.raises(InvalidArgument, match='Tensor "x": expected'):
        decode({"inputs": [item]}, tail)


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [tensor(parameters={"shared_memory_region": "r"})]},
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
    ],
)
def test_extensions_that_are_not_served_say_so(document):
    with pytest.raises(Unimplemented, match="not served"):
        decode(document)


@pytest.mark.parametrize(
    ("spec", "body", "shape"),
    [
        (TensorSpec("x", BY_NAME["float32"], (-1, 2)), bytes(8), (1, 2)),
        (TensorSpec("x", BY_NAME["float32"], (-1, -1)), bytes(12), (1, 3)),
        (TensorSpec("x", BY_NAME["int64"], (-1,)), bytes(8), (1,)),
        (TensorSpec("x", BY_NAME["string"], (-1,)), b"any bytes", (1,)),
        (TensorSpec("x", BY_NAME["string"], (-1, 1)), b"", (1, 1)),
        (TensorSpec("x", BY_NAME["uint8"], (2, 2)), bytes(4), (2, 2)),
    ],
)
def test_a_raw_request_is_one_row_of_the_single_input(spec, body, shape):
    batch = (-1,) if spec.shape[0] == -1 else spec.shape[:1]
    signature = Signature((spec,), (TensorSpec("y", BY_NAME["float32"], batch),))
    infer = oip_rest.decode_raw_infer(body, signature, model="m", version=None)
    assert infer.request.inputs["x"].shape == shape
    assert infer.binary_default
    if spec.dtype.is_string:
        assert infer.request.inputs["x"].ravel().tolist() == [body]


@pytest.mark.parametrize(
    ("specs", "body", "words"),
    [
        ((TensorSpec("x", BY_NAME["float32"], (-1, 2)),), bytes(9), "expected 8 bytes of FP32 for shape"),
        ((TensorSpec("x", BY_NAME["float32"], (-1, -1)),), bytes(9), "Received: 9"),
        ((TensorSpec("x", BY_NAME["float32"], (-1, -1, -1)),), bytes(8), "at most one variable axis"),
        ((TensorSpec("x", BY_NAME["string"], (-1, 2)),), bytes(8), "a shape of one element"),
        ((TensorSpec("x", BY_NAME["string"], (-1, -1)),), bytes(8), "a shape of one element"),
        ((TensorSpec("x", BY_NAME["float32"], None),), bytes(8), "known rank"),
        (
            (TensorSpec("a", BY_NAME["int8"], (-1,)), TensorSpec("b", BY_NAME["int8"], (-1,))),
            bytes(1),
            "a single input",
        ),
    ],
)
def test_raw_requests_that_are_refused(specs, body, words):
    signature = Signature(specs, (TensorSpec("y", BY_NAME["float32"], (-1,)),))
    with pytest.raises(InvalidArgument, match=words):
        oip_rest.decode_raw_infer(body, signature, model="m", version=None)


def test_the_answer_names_model_version_and_id():
    document, _, _ = encode({"y": np.array([[1, 2]], np.float32)}, id="42")
    assert document == {
        "id": "42",
        "model_name": "m",
        "model_version": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


def test_no_id_is_answered_with_none():
    assert "id" not in encode({})[0]


def test_json_and_binary_outputs_may_be_mixed():
    outputs = {"a": np.array([1], np.int32), "b": np.array([True]), "c": np.array([b"hi"], object)}
    document, tail, length = encode(outputs, binary={"a": True, "c": True})
    assert length is not None
    assert [output.get("data") for output in document["outputs"]] == [None, [True], None]
    assert [output.get("parameters") for output in document["outputs"]] == [
        {"binary_data_size": 4},
        None,
        {"binary_data_size": 6},
    ]
    assert tail == struct.pack("<iI", 1, 2) + b"hi"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([np.nan], np.float32), "expected finite values"),
        (np.array([-np.inf], np.float64), "expected finite values"),
        (np.array([1], np.float16), "FP16 data via JSON is not supported"),
        (np.array([b"\xff"], object), "expected UTF-8"),
    ],
)
def test_what_json_cannot_carry_is_refused_but_goes_in_binary(array, words):
    with pytest.raises(InvalidArgument, match=f'Output "y": .*{words}'):
        encode({"y": array})
    assert encode({"y": array}, binary_default=True)[1] != b""


def test_metadata_tells_unknown_rank_as_one_variable_axis():
    signature = Signature((TensorSpec("x", BY_NAME["int64"], None),), (TensorSpec("y", BY_NAME["string"], (-1, 2)),))
    assert json.loads(
        oip_rest.encode_model_metadata("m", [1, 3], "onnxruntime_onnx", {"serving_default": signature})
    ) == {
        "name": "m",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1, 2]}],
    }
