"""TensorFlow Serving's gRPC messages <-> the engine.

Sources: tensorflow_serving/servables/tensorflow/{predict_impl,predict_util,get_model_metadata_impl}.cc and
model_servers/get_model_status_impl.cc, for which fields count, what answers echo, and the error texts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from services import errors
from services.engine.manager import VersionStatus
from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import InvalidArgument, NotFound
from services.protocols import tensor_proto
from services.protocols.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    SignatureDef,
    SignatureDefMap,
    parse,
)
from services.protocols.wire import delimited, tag, text, varint
from services.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec

SIGNATURE_DEF = "signature_def"
_SIGNATURE_DEF_MAP_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_MOST_BYTES_PER_BYTE = 8
"""What a byte on the wire may rightly become: a small int64 is a varint of one byte."""
_FIRST, _SECOND, _THIRD = tag(1), tag(2), tag(3)


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """Which model, and which version of it, a ModelSpec names; with neither version nor label, the latest."""

    model: str
    version: int | None
    label: str | None


def decode_predict(data: bytes) -> InferenceRequest:
    """A serialised PredictRequest. Raises InvalidArgument; whether the tensors fit the model is for the engine to say."""
    message = parse(PredictRequest, data, "PredictRequest")
    address = _address(message)
    outputs = tuple(message.output_filter)
    if len(set(outputs)) < len(outputs):
        twice = next(name for name, count in Counter(outputs).items() if count > 1)
        raise InvalidArgument(f"duplicate output tensor alias: {twice}. Expected each output once in output_filter.")
    return InferenceRequest(
        model=address.model,
        inputs=_inputs(message.inputs, len(data)),
        version=address.version,
        label=address.label,
        signature=message.model_spec.signature_name or DEFAULT_SIGNATURE,
        outputs=outputs,
    )


def encode_predict(response: InferenceResponse) -> bytes:
    """The serialised PredictResponse: typed fields, and the version and signature that answered."""
    parts: list[bytes] = []
    for name, array in response.outputs.items():  # map entries: the key is field 1, the value field 2
        key, value = text(_FIRST, name), tensor_proto.encode(array)
        size = varint(len(value))
        parts += (_FIRST, varint(len(key) + len(_SECOND) + len(size) + len(value)), key, _SECOND, size, value)
    parts.append(_model_spec(response.model, response.version, response.signature))
    return b"".join(parts)


def around_values(
    model: str, version: int, signature: str, outputs: Mapping[str, np.ndarray], rows: int
) -> list[bytes] | None:
    """What `encode_predict` writes around the values of so many rows of each output, for `around_rows`.

    None where an output's bytes differ by more than their values.
    """
    texts: list[bytes] = []
    for name, array in outputs.items():
        before = tensor_proto.before_values(array.dtype, (rows, *array.shape[1:]))
        if before is None:
            return None
        key, value_bytes = text(_FIRST, name), len(before) + array.nbytes // len(array) * rows
        size = varint(value_bytes)
        entry = varint(len(key) + len(_SECOND) + len(size) + value_bytes)
        texts.append(b"".join((_FIRST, entry, key, _SECOND, size, before)))
    texts.append(_model_spec(model, version, signature))
    return texts


def decode_metadata_request(data: bytes) -> ModelAddress:
    """A serialised GetModelMetadataRequest, which must ask for `signature_def` and nothing else."""
    message = parse(GetModelMetadataRequest, data, "GetModelMetadataRequest")
    address = _address(message)
    if not message.metadata_field:
        raise InvalidArgument(
            f"GetModelMetadataRequest must specify at least one metadata_field. Expected: {SIGNATURE_DEF}."
        )
    for name in message.metadata_field:
        if name != SIGNATURE_DEF:
            raise InvalidArgument(f"Metadata field {name:.100} is not supported. Expected: {SIGNATURE_DEF}.")
    return address


def encode_metadata(model: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """The serialised GetModelMetadataResponse with one SignatureDef per signature."""
    message = GetModelMetadataResponse()
    message.model_spec.name = model
    message.model_spec.version.value = version
    definitions = SignatureDefMap()
    for name, signature in signatures.items():
        definitions.signature_def[name].CopyFrom(_signature_def(signature))
    packed = message.metadata[SIGNATURE_DEF]
    packed.type_url = _SIGNATURE_DEF_MAP_URL
    packed.value = definitions.SerializeToString(deterministic=True)
    data: bytes = message.SerializeToString()
    return data


def decode_status_request(data: bytes) -> tuple[str, int | None]:
    """The model and version a serialised GetModelStatusRequest asks about; a label is ignored, as upstream ignores it."""
    message = parse(GetModelStatusRequest, data, "GetModelStatusRequest")
    if not message.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec = message.model_spec
    return spec.name, spec.version.value if spec.HasField("version") else None


def encode_statuses(statuses: Iterable[VersionStatus]) -> bytes:
    """The serialised GetModelStatusResponse."""
    message = GetModelStatusResponse()
    for status in statuses:
        entry = message.model_version_status.add(version=status.version, state=int(status.state))
        entry.status.error_code = errors.OK if status.error is None else status.error.code
        entry.status.error_message = "" if status.error is None else str(status.error)
    data: bytes = message.SerializeToString()
    return data


def status_not_found(model: str, version: int | None) -> NotFound:
    """What GetModelStatus answers for a model or version it does not know."""
    if version is None:
        return NotFound(f"Could not find any versions of model {model}")
    return NotFound(f"Could not find version {version} of model {model}")


def _address(message: Any) -> ModelAddress:
    if not message.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec = message.model_spec
    if not spec.name:
        raise InvalidArgument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return ModelAddress(spec.name, version, spec.version_label if choice == "version_label" else None)


def _inputs(tensors: Mapping[str, Any], message_bytes: int) -> dict[str, np.ndarray]:
    """The arrays by name. All repeated values of one message together get the room that one tensor's may take."""
    inputs: dict[str, np.ndarray] = {}
    room = _MOST_BYTES_PER_BYTE * message_bytes + tensor_proto.MAX_REPEATED_BYTES
    for name, tensor in tensors.items():
        array = inputs[name] = tensor_proto.decode(tensor, name)
        room -= array.nbytes
        if room < 0:
            raise InvalidArgument(
                f"Expected inputs that grow by at most {tensor_proto.MAX_REPEATED_BYTES} bytes when their last values are "
                f"repeated up to their shapes. Received: more, in a message of {message_bytes} bytes."
            )
    return inputs


@lru_cache(maxsize=1024)
def _model_spec(model: str, version: int, signature: str) -> bytes:
    """PredictResponse's model_spec field; cached, as it changes with the version only."""
    number = tag(1, wire_type=0) + varint(version)
    return delimited(_SECOND, text(_FIRST, model) + delimited(_SECOND, number) + text(_THIRD, signature))


def _signature_def(signature: Signature) -> Any:
    definition = SignatureDef(method_name=signature.method_name)
    for spec in signature.inputs:
        _describe(spec, definition.inputs[spec.name])
    for spec in signature.outputs:
        _describe(spec, definition.outputs[spec.name])
    return definition


def _describe(spec: TensorSpec, info: Any) -> None:
    """Fill a TensorInfo. Its name is that of a graph's tensor; without a graph, ours and an output index."""
    info.name = spec.graph_name or f"{spec.name}:0"
    info.dtype = spec.dtype.tf_enum
    if spec.shape is None:
        info.tensor_shape.unknown_rank = True
        return
    info.tensor_shape.SetInParent()
    for size in spec.shape:
        info.tensor_shape.dim.add(size=size)
