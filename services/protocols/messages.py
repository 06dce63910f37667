"""Message classes of both dialects, out of a private descriptor pool.

Protobuf's default pool is shared by a whole process and refuses a second file that declares the same names. An installed
`tensorflow`, `tensorflow-serving-api` or `tritonclient` declares ours, so these classes live in a pool of their own, and
one process can hold both. protoc's own Python output cannot do that; hence the descriptor set that `make protos` writes.

    request = PredictRequest.FromString(data)
    request.model_spec.name
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from services.errors import InvalidArgument


class MessageClass(Protocol):
    """What is used of a message class. The messages are `Any`: their fields are known at run time only."""

    DESCRIPTOR: Any

    def __call__(self, **fields: Any) -> Any: ...

    def FromString(self, data: bytes) -> Any:  # noqa: N802 - protobuf's name
        """The message those bytes hold. Raises protobuf's DecodeError."""


def _load() -> tuple[tuple[bytes, ...], Any]:
    """Every file of the committed descriptor set, serialised, and a pool that holds them all."""
    compiled = Path(__file__).with_name("messages.binpb").read_bytes()
    serialised = tuple(_split(compiled))
    pool = descriptor_pool.DescriptorPool()
    for file in serialised:
        pool.AddSerializedFile(file)
    return serialised, pool


def _split(descriptor_set: bytes) -> Iterator[bytes]:
    """The files of a serialised FileDescriptorSet: its field 1, and it has no other.

    By hand, since protobuf's own classes for it take longer to import than all of ours to make.
    """
    position = 0
    while position < len(descriptor_set):
        position += 1  # the tag
        length = shift = 0
        while True:
            byte = descriptor_set[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield descriptor_set[position : position + length]
        position += length


FILES, POOL = _load()
"""FILES: the serialised FileDescriptorProtos, each after those it imports. POOL: the private DescriptorPool."""


def _message(full_name: str) -> MessageClass:
    message_class: MessageClass = message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))
    return message_class


TensorProto = _message("tensorflow.TensorProto")
TensorShapeProto = _message("tensorflow.TensorShapeProto")
TensorInfo = _message("tensorflow.TensorInfo")
SignatureDef = _message("tensorflow.SignatureDef")
DATA_TYPE_NAMES: dict[int, str] = {
    value.number: value.name for value in POOL.FindEnumTypeByName("tensorflow.DataType").values
}

PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")

ModelServerConfig = _message("tensorflow.serving.ModelServerConfig")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")

ServerLiveResponse = _message("inference.ServerLiveResponse")
ServerReadyResponse = _message("inference.ServerReadyResponse")
ModelReadyRequest = _message("inference.ModelReadyRequest")
ModelReadyResponse = _message("inference.ModelReadyResponse")
ServerMetadataResponse = _message("inference.ServerMetadataResponse")
ModelMetadataRequest = _message("inference.ModelMetadataRequest")
ModelMetadataResponse = _message("inference.ModelMetadataResponse")
InferTensorContents = _message("inference.InferTensorContents")
ModelConfigRequest = _message("inference.ModelConfigRequest")
ModelConfigResponse = _message("inference.ModelConfigResponse")
ModelStatisticsRequest = _message("inference.ModelStatisticsRequest")
ModelStatisticsResponse = _message("inference.ModelStatisticsResponse")
ModelInferRequest = _message("inference.ModelInferRequest")
ModelInferResponse = _message("inference.ModelInferResponse")

HealthCheckRequest = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _message("grpc.health.v1.HealthCheckResponse")
ServerReflectionRequest = _message("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse = _message("grpc.reflection.v1.ServerReflectionResponse")


def parse(message_class: MessageClass, data: bytes, name: str) -> Any:
    """The message in `data`; `name` stands in the error. Raises InvalidArgument where it is not one."""
    try:
        return message_class.FromString(data)
    except DecodeError:
        raise InvalidArgument(
            f"Could not parse {name}: expected a serialised message. Received: {len(data)} bytes that are none."
        ) from None


def parse_text(message_class: MessageClass, text: str, name: str) -> Any:
    """The message in protobuf's text format; `name` stands in the error. Raises InvalidArgument with line and column."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, message_class(), descriptor_pool=POOL)
    except text_format.ParseError as error:
        raise InvalidArgument(
            f"{name}: expected {message_class.DESCRIPTOR.full_name} as text. Received: {error}."
        ) from None
