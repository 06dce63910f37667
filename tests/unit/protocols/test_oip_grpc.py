"""The Open Inference Protocol's messages: typed and raw contents, and refusal of what contradicts itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.engine.request import InferenceResponse
from services.errors import InvalidArgument, Unimplemented
from services.protocols import oip_grpc
from services.protocols.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ServerMetadataResponse,
)
from services.protocols.oip_raw import datatype_of, decode_raw, encode_raw
from services.tensors import BY_NAME, DTYPES, DType, Signature, TensorSpec

PROPERTY = settings(deadline=None, max_examples=50)

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)


def arrays(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    if not dtype.is_string:
        return hnp.arrays(dtype.numpy, SHAPES)
    return hnp.arrays(object, SHAPES, elements=st.binary(max_size=40), fill=st.nothing())


def infer_request(*inputs: dict[str, object], **fields: object):
    return ModelInferRequest(model_name="m", inputs=list(inputs), **fields)


def decode(message) -> dict[str, np.ndarray]:
    return oip_grpc.decode_infer(message.SerializeToString()).request.inputs


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert isinstance(got, np.ndarray)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.oip)
@PROPERTY
@given(data=st.data())
def test_raw_contents_give_back_what_was_encoded(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    tensor = {"name": "x", "datatype": dtype.oip, "shape": array.shape}
    assert_same(decode(infer_request(tensor, raw_input_contents=[encode_raw(array)]))["x"], array)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.oip in FIELDS], ids=lambda dtype: dtype.oip)
@PROPERTY
@given(data=st.data())
def test_typed_contents_give_back_what_was_sent(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    contents = {FIELDS[dtype.oip]: array.ravel().tolist()}
    tensor = {"name": "x", "datatype": dtype.oip, "shape": array.shape, "contents": contents}
    assert_same(decode(infer_request(tensor))["x"], array)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.oip)
@PROPERTY
@given(data=st.data())
def test_answers_carry_raw_contents_in_the_order_of_their_outputs(dtype: DType, data: st.DataObject) -> None:
    outputs = {"b": data.draw(arrays(dtype)), "a": np.zeros(1, np.int64)}
    response = InferenceResponse("m", 12, "serving_default", outputs)
    message = ModelInferResponse.FromString(oip_grpc.encode_infer(response, "id é"))
    assert (message.model_name, message.model_version, message.id) == ("m", "12", "id é")
    assert [output.name for output in message.outputs] == ["b", "a"]
    first = message.outputs[0]
    shape = tuple(first.shape)
    got = decode_raw(message.raw_output_contents[0], datatype_of(first.datatype, "b"), shape, outputs["b"].size, "b")
    assert_same(got, outputs["b"])


def test_raw_contents_are_not_copied() -> None:
    message = infer_request({"name": "x", "datatype": "FP32", "shape": [2]}, raw_input_contents=[b"\0" * 8])
    assert not decode(message)["x"].flags.writeable


def test_raw_bytes_in_the_middle_of_a_buffer_become_an_aligned_array() -> None:
    data = memoryview(b"?" + np.arange(3.0).tobytes())[1:]
    array = decode_raw(data, BY_NAME["float64"], (3,), 3, "x")
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2]


def test_a_request_names_model_version_id_and_outputs() -> None:
    message = infer_request(model_version="3", id="r1", outputs=[{"name": "b"}, {"name": "a"}])
    infer = oip_grpc.decode_infer(message.SerializeToString())
    assert (infer.request.model, infer.request.version, infer.id) == ("m", 3, "r1")
    assert infer.request.outputs == ("b", "a")


def test_parameters_of_the_clients_own_are_left_unheeded() -> None:
    message = infer_request({"name": "x", "datatype": "FP32", "shape": [0], "parameters": {"k": {"bool_param": True}}})
    message.parameters["custom"].string_param = "v"
    assert decode(message)["x"].shape == (0,)


def test_the_timeout_parameter_is_in_microseconds() -> None:
    message = infer_request()
    message.parameters["timeout"].int64_param = 1500
    assert oip_grpc.decode_infer(message.SerializeToString()).timeout_us == 1500


@pytest.mark.parametrize("parameter", [{"int64_param": -1}, {"string_param": "soon"}, {}])
def test_a_timeout_that_is_none_is_refused(parameter: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="timeout in microseconds"):
        decode(infer_request(parameters={"timeout": parameter}))


FP32 = {"name": "x", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (infer_request(FP32, raw_input_contents=[b"1234"]), r"expected 8 bytes of FP32 for shape \[2\]. Received: 4"),
        (infer_request(FP32, raw_input_contents=[b"\0" * 8] * 2), "all of the 1 inputs or for none. Received: 2"),
        (infer_request(FP32, FP32, raw_input_contents=[b"\0" * 8] * 2), 'Received: "x" twice'),
        (infer_request(FP32), r"expected 2 values in fp32_contents for shape \[2\]. Received: 0"),
        (
            infer_request({**FP32, "contents": {"fp32_contents": [1, 2]}}, raw_input_contents=[b"\0" * 8]),
            "contents or raw_input_contents. Received: both",
        ),
        (
            infer_request({**FP32, "contents": {"int_contents": [1, 2]}}),
            "expected FP32 in fp32_contents. Received: int_contents",
        ),
        (infer_request({**FP32, "datatype": "FLOAT"}), "expected a datatype out of FP32, .*Received: 'FLOAT'"),
        (infer_request({**FP32, "datatype": "FP16"}), "expected FP16 in raw_input_contents. Received: typed contents"),
        (infer_request({**FP32, "shape": [-1, 2]}), "expected no negative axis"),
        (infer_request({**FP32, "shape": [2**40, 2**40]}, raw_input_contents=[b""]), "shape that fits in memory"),
        (
            infer_request({"name": "x", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [128]}}),
            "expected values of INT8. Received: 128",
        ),
        (
            infer_request({"name": "x", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[b"\x05\0\0\0ab"]),
            "element 0 ends 3 bytes after the data",
        ),
        (
            infer_request({"name": "x", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[b"\x05\0"]),
            "4-byte length before each BYTES element",
        ),
        (
            infer_request({"name": "x", "datatype": "BYTES", "shape": [2]}, raw_input_contents=[b"\x01\0\0\0a"]),
            "expected 2 BYTES elements",
        ),
        (infer_request(model_version="latest"), "a positive integer. Received: 'latest'"),
        (infer_request(model_version="-1"), "a positive integer. Received: '-1'"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(message, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        decode(message)


@pytest.mark.parametrize(
    "message",
    [
        infer_request({**FP32, "parameters": {"shared_memory_region": {"string_param": "r"}}}),
        infer_request(outputs=[{"name": "y", "parameters": {"shared_memory_region": {"string_param": "r"}}}]),
        infer_request(outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 1}}}]),
    ],
)
def test_parameters_that_would_change_the_answer_are_refused(message) -> None:
    with pytest.raises(Unimplemented, match="is not supported"):
        decode(message)


@PROPERTY
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_canonical_error(data: bytes) -> None:
    try:
        oip_grpc.decode_infer(data)
    except (InvalidArgument, Unimplemented):
        return


def test_model_requests_name_model_and_version() -> None:
    ready = ModelReadyRequest(name="m", version="2").SerializeToString()
    metadata = ModelMetadataRequest(name="m").SerializeToString()
    assert oip_grpc.decode_model_request(ready, ready=True) == ("m", 2)
    assert oip_grpc.decode_model_request(metadata, ready=False) == ("m", None)


def test_model_metadata_describes_the_signature() -> None:
    signature = Signature(
        (TensorSpec("x", BY_NAME["float32"], (-1, 3)),),
        (TensorSpec("y", BY_NAME["string"], None), TensorSpec("z", BY_NAME["bool"], ())),
    )
    data = oip_grpc.encode_model_metadata("m", [1, 3], "onnxruntime_onnx", {"serving_default": signature})
    message = ModelMetadataResponse.FromString(data)
    assert (message.name, list(message.versions), message.platform) == ("m", ["1", "3"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [("x", "FP32", [-1, 3])]
    assert [(t.name, t.datatype, list(t.shape)) for t in message.outputs] == [("y", "BYTES", [-1]), ("z", "BOOL", [])]


def test_server_metadata_says_name_version_and_extensions() -> None:
    message = ServerMetadataResponse.FromString(oip_grpc.encode_server_metadata("cornet", "1", ("a", "b")))
    assert (message.name, message.version, list(message.extensions)) == ("cornet", "1", ["a", "b"])
