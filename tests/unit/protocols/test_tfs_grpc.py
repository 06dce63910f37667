"""TensorFlow Serving's messages: which fields count, what answers echo, and the texts of refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import errors
from services.engine.request import InferenceResponse
from services.errors import InvalidArgument, Unavailable
from services.protocols import tensor_proto, tfs_grpc
from services.protocols.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    TensorProto,
)
from services.tensors import BY_NAME, Signature, TensorSpec

PROPERTY = settings(deadline=None, max_examples=50)


def predict_request(**spec: object):
    request = PredictRequest()
    request.model_spec.name = "m"
    for name, value in spec.items():
        setattr(request.model_spec, name, value)
    return request


def test_a_predict_request_becomes_an_engine_request() -> None:
    message = predict_request(signature_name="classify")
    message.model_spec.version.value = 7
    message.inputs["x"].MergeFromString(tensor_proto.encode(np.ones((2, 3), np.float32)))
    message.output_filter.extend(["b", "a"])
    request = tfs_grpc.decode_predict(message.SerializeToString())
    assert (request.model, request.version, request.label, request.signature) == ("m", 7, None, "classify")
    assert request.outputs == ("b", "a")
    np.testing.assert_array_equal(request.inputs["x"], np.ones((2, 3), np.float32))


def test_an_empty_signature_name_means_the_default_signature() -> None:
    assert tfs_grpc.decode_predict(predict_request().SerializeToString()).signature == "serving_default"


def test_a_label_stands_in_for_a_version() -> None:
    request = tfs_grpc.decode_predict(predict_request(version_label="canary").SerializeToString())
    assert (request.version, request.label) == (None, "canary")


def test_version_zero_is_a_version_and_not_the_latest() -> None:
    message = predict_request()
    message.model_spec.version.SetInParent()
    assert tfs_grpc.decode_predict(message.SerializeToString()).version == 0


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (PredictRequest(), "Missing ModelSpec"),
        (PredictRequest(model_spec={"signature_name": "s"}), r"ModelSpec has no name specified\."),
        (PredictRequest(model_spec={"name": "m"}, output_filter=["a", "a"]), "duplicate output tensor alias: a"),
        (PredictRequest(model_spec={"name": "m"}, inputs={"x": TensorProto(dtype=8)}), 'Tensor "x".*DT_COMPLEX64'),
    ],
)
def test_a_predict_request_that_cannot_work_is_refused(message, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        tfs_grpc.decode_predict(message.SerializeToString())


def test_many_small_tensors_cannot_make_huge_ones_together() -> None:
    message = predict_request()
    for index in range(3):
        tensor = message.inputs[f"x{index}"]
        tensor.dtype = BY_NAME["float32"].tf_enum
        tensor.tensor_shape.dim.add(size=8 * 2**20)
    with pytest.raises(InvalidArgument, match="grow by at most"):
        tfs_grpc.decode_predict(message.SerializeToString())


@PROPERTY
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid_argument(data: bytes) -> None:
    for decode in (tfs_grpc.decode_predict, tfs_grpc.decode_metadata_request, tfs_grpc.decode_status_request):
        try:
            decode(data)
        except InvalidArgument:
            continue


@PROPERTY
@given(
    model=st.text(min_size=1, max_size=200),
    version=st.integers(1, 2**63 - 1),
    names=st.lists(st.text(max_size=200), unique=True, max_size=4),
)
def test_a_predict_response_echoes_model_version_and_signature(model: str, version: int, names: list[str]) -> None:
    outputs = {name: np.full((1, 2), index, np.int64) for index, name in enumerate(names)}
    data = tfs_grpc.encode_predict(InferenceResponse(model, version, "serving_default", outputs))
    message = PredictResponse.FromString(data)
    spec = message.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (model, version, "serving_default")
    assert {name: tensor_proto.decode(tensor, name).tolist() for name, tensor in message.outputs.items()} == {
        name: array.tolist() for name, array in outputs.items()
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [([], "must specify at least one metadata_field"), (["signature_def", "x"], "Metadata field x is not supported")],
)
def test_metadata_is_answered_for_signature_def_alone(fields: list[str], text: str) -> None:
    message = GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=fields)
    with pytest.raises(InvalidArgument, match=text):
        tfs_grpc.decode_metadata_request(message.SerializeToString())


def test_a_metadata_request_names_its_model() -> None:
    message = GetModelMetadataRequest(model_spec={"name": "m", "version_label": "l"}, metadata_field=["signature_def"])
    assert tfs_grpc.decode_metadata_request(message.SerializeToString()) == tfs_grpc.ModelAddress("m", None, "l")


def test_metadata_describes_every_tensor_of_every_signature() -> None:
    signature = Signature(
        (TensorSpec("x", BY_NAME["float32"], (-1, 3)), TensorSpec("s", BY_NAME["string"], ())),
        (TensorSpec("y", BY_NAME["bool"], None),),
    )
    message = GetModelMetadataResponse.FromString(tfs_grpc.encode_metadata("m", 3, {"serving_default": signature}))
    assert (message.model_spec.name, message.model_spec.version.value) == ("m", 3)
    packed = message.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    definition = SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    x, s, y = definition.inputs["x"], definition.inputs["s"], definition.outputs["y"]
    assert (x.name, x.dtype, [dim.size for dim in x.tensor_shape.dim]) == ("x:0", 1, [-1, 3])
    assert (s.dtype, s.HasField("tensor_shape"), s.tensor_shape.unknown_rank) == (7, True, False)
    assert (y.dtype, y.tensor_shape.unknown_rank) == (10, True)


def test_a_status_request_ignores_the_label() -> None:
    message = GetModelStatusRequest(model_spec={"name": "m", "version_label": "l"})
    assert tfs_grpc.decode_status_request(message.SerializeToString()) == ("m", None)


def test_a_status_request_without_a_spec_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="Missing ModelSpec"):
        tfs_grpc.decode_status_request(b"")


def test_statuses_carry_state_and_reason() -> None:
    statuses = [
        SimpleNamespace(version=2, state=30, error=None),
        SimpleNamespace(version=3, state=50, error=Unavailable("no luck")),
    ]
    message = GetModelStatusResponse.FromString(tfs_grpc.encode_statuses(statuses))
    rows = [(s.version, s.state, s.status.error_code, s.status.error_message) for s in message.model_version_status]
    assert rows == [(2, 30, errors.OK, ""), (3, 50, errors.UNAVAILABLE, "no luck")]


@pytest.mark.parametrize(
    ("version", "text"),
    [(None, "Could not find any versions of model m"), (4, "Could not find version 4 of model m")],
)
def test_an_unknown_model_gets_tensorflow_servings_words(version: int | None, text: str) -> None:
    assert str(tfs_grpc.status_not_found("m", version)) == text
