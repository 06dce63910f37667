"""The Open Inference Protocol's gRPC messages <-> the engine.

Answers always use raw contents, as Triton's do; requests use raw or typed contents, one of the two for all inputs.

Sources: the Open Inference Protocol's gRPC part, and Triton's `grpc/infer_handler.cc` for what it leaves open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import InvalidArgument, Unimplemented
from services.protocols.messages import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
    parse,
)
from services.protocols.oip_raw import datatype_of, decode_raw, encode_raw
from services.protocols.oip_signatures import (
    SIGNATURE_NAME,
    SIGNATURES,
    chosen_signature,
    default_of,
    describe_tensors,
    signatures_text,
)
from services.protocols.shapes import checked_shape, expect_count, narrowed
from services.protocols.wire import delimited, packed_values, tag, text, varint
from services.tensors import DType, Signature, dtype_of

_CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
}
"""The typed field of InferTensorContents by element type. FP16 has none."""

_REFUSED_PARAMETERS = ("shared_memory_region", "classification")
"""They change where values are or what they mean: leaving them unheeded would give a wrong answer."""

_NAME, _VERSION, _ID, _OUTPUT, _RAW = tag(1), tag(2), tag(3), tag(5), tag(6)


@dataclass(frozen=True, slots=True)
class Infer:
    """A decoded ModelInferRequest: what the engine is asked, the id to echo, and the time the caller allows, 0 for any."""

    request: InferenceRequest
    id: str
    timeout_us: int


def decode_infer(data: bytes) -> Infer:
    """A serialised ModelInferRequest.

    Raises InvalidArgument for tensors that contradict themselves and Unimplemented for extensions that are not served;
    whether the tensors fit the model is for the engine to say.
    """
    message = parse(ModelInferRequest, data, "ModelInferRequest")
    request = InferenceRequest(
        model=message.model_name,
        inputs=_inputs(message),
        version=decode_version(message.model_version),
        outputs=_requested_outputs(message.outputs),
    )
    if not message.parameters:
        return Infer(request, message.id, 0)
    request.signature = chosen_signature(_parameter(message.parameters, SIGNATURE_NAME))
    return Infer(request, message.id, _timeout_us(message.parameters))


def encode_infer(response: InferenceResponse, request_id: str) -> bytes:
    """The serialised ModelInferResponse; the request's id is echoed."""
    parts = [text(_NAME, response.model), text(_VERSION, str(response.version))]
    if request_id:
        parts.append(delimited(_ID, request_id.encode()))
    raw: list[bytes] = []
    for name, array in response.outputs.items():
        parts.append(_output_tensor(name, dtype_of(array).oip, array.shape))
        data = encode_raw(array)
        raw += (_RAW, varint(len(data)), data)
    return b"".join((*parts, *raw))


def around_values(model: str, version: int, outputs: Mapping[str, np.ndarray], rows: int) -> list[bytes] | None:
    """What `encode_infer` writes around the values of so many rows of each output, for `around_rows`; without an id.

    None where an output's bytes differ by more than their values.
    """
    texts = [text(_NAME, model) + text(_VERSION, str(version))]
    for name, array in outputs.items():
        dtype = dtype_of(array)
        if dtype.is_string:
            return None
        texts[0] += _output_tensor(name, dtype.oip, (rows, *array.shape[1:]))
        texts.append(_RAW + varint(array.nbytes // len(array) * rows))
    return [texts[0] + texts[1], *texts[2:], b""]


def id_place(model: str, version: int) -> int:
    """Where in such an answer the id belongs."""
    return len(text(_NAME, model)) + len(text(_VERSION, str(version)))


def id_field(data: bytes) -> tuple[int, int] | None:
    """Where a serialised ModelInferRequest has its id field, tag and length included: from, to. None where it is not plain.

    Plain: behind model_name and perhaps model_version, all of them of less than 128 bytes, and an id in ASCII.
    """
    position = 0
    for tags in (b"\n", b"\x12"):
        if data[position : position + 1] == tags and position + 1 < len(data) and data[position + 1] < 128:
            position += 2 + data[position + 1]
    start = position
    if data[start : start + 1] != _ID or start + 1 >= len(data) or not 0 < data[start + 1] < 128:
        return None
    stop = start + 2 + data[start + 1]
    return (start, stop) if stop < len(data) and data[start:stop].isascii() else None


def decode_version(version: str) -> int | None:
    """A version string; empty means the latest. Raises InvalidArgument."""
    if not version:
        return None
    if not (version.isascii() and version.isdigit() and len(version) < 19):
        raise InvalidArgument(f"Expected a model version that is a positive integer. Received: {version!r:.60}.")
    return int(version)


def decode_model_request(data: bytes, *, ready: bool) -> tuple[str, int | None]:
    """The model and version of a serialised ModelReadyRequest (`ready`) or ModelMetadataRequest."""
    if ready:
        message = parse(ModelReadyRequest, data, "ModelReadyRequest")
    else:
        message = parse(ModelMetadataRequest, data, "ModelMetadataRequest")
    return message.name, decode_version(message.version)


def encode_model_metadata(
    model: str, versions: Sequence[int], platform: str, signatures: Mapping[str, Signature]
) -> bytes:
    """The serialised ModelMetadataResponse; `oip_signatures` says what of which signature it has."""
    message = ModelMetadataResponse(name=model, versions=[str(version) for version in versions], platform=platform)
    signature = default_of(signatures)
    for specs, tensors in ((signature.inputs, message.inputs), (signature.outputs, message.outputs)):
        for tensor in describe_tensors(specs):
            tensors.add(**tensor)
    described = signatures_text(signatures)
    if described:
        message.parameters[SIGNATURES].string_param = described
    return _serialised(message)


def encode_server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    return _serialised(ServerMetadataResponse(name=name, version=version, extensions=extensions))


def encode_server_live(live: bool) -> bytes:
    return _serialised(ServerLiveResponse(live=live))


def encode_server_ready(ready: bool) -> bytes:
    return _serialised(ServerReadyResponse(ready=ready))


def encode_model_ready(ready: bool) -> bytes:
    return _serialised(ModelReadyResponse(ready=ready))


def _serialised(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


# Reading.


def _inputs(message: Any) -> dict[str, np.ndarray]:
    tensors, raw = message.inputs, message.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise InvalidArgument(
            f"Expected raw_input_contents for all of the {len(tensors)} inputs or for none. Received: {len(raw)}."
        )
    inputs: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise InvalidArgument(f'Expected each input once. Received: "{name}" twice.')
        if tensor.parameters:
            _refuse(tensor.parameters, f'input "{name}"')
        dtype = datatype_of(tensor.datatype, name)
        shape, count = checked_shape(tensor.shape, name)
        if not raw:
            inputs[name] = _typed_values(tensor.contents, dtype, name, shape, count)
        elif tensor.HasField("contents") and tensor.contents.ByteSize():
            raise InvalidArgument(f'Tensor "{name}": expected contents or raw_input_contents. Received: both.')
        else:
            inputs[name] = decode_raw(raw[index], dtype, shape, count, name)
    return inputs


def _typed_values(contents: Any, dtype: DType, name: str, shape: tuple[int, ...], count: int) -> np.ndarray:
    """The values of the typed field that belongs to the datatype."""
    field = _CONTENTS.get(dtype.name)
    if field is None:
        raise InvalidArgument(f'Tensor "{name}": expected {dtype.oip} in raw_input_contents. Received: typed contents.')
    stray = [sent.name for sent, _ in contents.ListFields() if sent.name != field]
    if stray:
        raise InvalidArgument(f'Tensor "{name}": expected {dtype.oip} in {field}. Received: {", ".join(stray)}.')
    values = getattr(contents, field)
    expect_count(name, f"values in {field}", shape, count, len(values))
    if dtype.is_string:
        array = np.empty(count, object)
        array[:] = list(values)
    elif dtype.name == "float32":
        array = packed_values(contents, field, 6, np.dtype("<f4"))
    elif dtype.name == "float64":
        array = packed_values(contents, field, 7, np.dtype("<f8"))
    else:
        array = _integers(values, count, dtype, name)
    return array.reshape(shape)


def _integers(values: Any, count: int, dtype: DType, name: str) -> np.ndarray:
    """BOOL and integers; INT8, INT16, UINT8 and UINT16 travel in a wider field and are checked for their range."""
    if dtype.itemsize > 2 or dtype.name == "bool":
        return np.fromiter(values, dtype.numpy, count)
    return narrowed(np.fromiter(values, np.int64, count), dtype, name, dtype.oip)


def _requested_outputs(outputs: Any) -> tuple[str, ...]:
    """Their names; the engine judges them."""
    for output in outputs:
        if output.parameters:
            _refuse(output.parameters, f'output "{output.name}"')
    return tuple(output.name for output in outputs)


def _parameter(parameters: Mapping[str, Any], name: str) -> Any:
    """A parameter's value; None where it is not there or has none."""
    if name not in parameters:
        return None
    choice = parameters[name].WhichOneof("parameter_choice")
    return getattr(parameters[name], choice) if choice else None


def _timeout_us(parameters: Mapping[str, Any]) -> int:
    """The schedule policy extension's `timeout`. Other parameters are the client's own."""
    if "timeout" not in parameters:
        return 0
    value = _parameter(parameters, "timeout")
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"Expected the parameter timeout in microseconds, from 0. Received: {value!r:.60}.")
    return value


def _refuse(parameters: Mapping[str, Any], where: str) -> None:
    for name in _REFUSED_PARAMETERS:
        if name in parameters:
            raise Unimplemented(f"The parameter {name} of {where} is not supported.")


# Writing.


@lru_cache(maxsize=4096)
def _output_tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """One entry of `outputs`; cached, as answers repeat a few shapes."""
    dims = b"".join(varint(size) for size in shape)
    described = text(_NAME, name) + text(tag(2), datatype) + (delimited(tag(3), dims) if shape else b"")
    return delimited(_OUTPUT, described)
