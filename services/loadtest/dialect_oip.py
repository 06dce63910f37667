"""The Open Inference Protocol, seen from the client: gRPC, REST with JSON, and REST with binary tensors."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from services.errors import InvalidArgument
from services.loadtest.requests import Answer, Arrays, Description, Model, Request
from services.protocols.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from services.protocols.oip_raw import datatype_of, decode_raw, encode_raw
from services.protocols.oip_signatures import SIGNATURE_NAME, SIGNATURES
from services.tensors import BY_OIP, DEFAULT_SIGNATURE, Signature, TensorSpec, dtype_of

_SERVICE = "/inference.GRPCInferenceService"


class OipGrpc:
    """GRPCInferenceService/ModelInfer with raw contents."""

    is_grpc = True

    def describe(self, model: Model) -> Request:
        message = ModelMetadataRequest(name=model.name, version=_version(model))
        return Request(f"{_SERVICE}/ModelMetadata", message.SerializeToString())

    def description(self, model: Model, answer: Answer) -> Description:
        try:
            message = ModelMetadataResponse.FromString(answer.body)
        except DecodeError as error:
            raise InvalidArgument(f"Expected a ModelMetadataResponse. Received: {error}.") from error
        if model.signature == DEFAULT_SIGNATURE:
            described: Mapping[str, Any] = {
                side: [
                    {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
                    for tensor in getattr(message, side)
                ]
                for side in ("inputs", "outputs")
            }
        else:
            described = _chosen(orjson.loads(message.parameters[SIGNATURES].string_param or "{}"), model)
        return Description(_signature(described))

    def predict(self, model: Model, inputs: Arrays) -> Request:
        message = ModelInferRequest(model_name=model.name, model_version=_version(model))
        if model.signature != DEFAULT_SIGNATURE:
            message.parameters[SIGNATURE_NAME].string_param = model.signature
        for name, array in inputs.items():
            message.inputs.add(name=name, datatype=dtype_of(array).oip, shape=array.shape)
            message.raw_input_contents.append(encode_raw(array))
        return Request(f"{_SERVICE}/ModelInfer", message.SerializeToString())

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        raise InvalidArgument("Expected an NPZ file of tensors for a gRPC protocol. Received: a JSON body.")

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        message = ModelInferResponse.FromString(answer.body)
        return {
            tensor.name: _from_raw(raw, tensor.name, tensor.datatype, tuple(tensor.shape))
            for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True)
        }


class OipRest:
    """`POST /v2/models/<name>/infer`, JSON both ways; with `binary`, raw tensors behind the JSON both ways."""

    is_grpc = False

    def __init__(self, *, binary: bool) -> None:
        self._binary = binary

    def describe(self, model: Model) -> Request:
        return Request(_path(model), verb="GET")

    def description(self, model: Model, answer: Answer) -> Description:
        try:
            document = orjson.loads(answer.body)
            if model.signature != DEFAULT_SIGNATURE:
                document = _chosen(document.get(SIGNATURES, {}), model)
            return Description(_signature(document))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"Expected the metadata of a model. Received: {answer.body!r:.200}.") from error

    def predict(self, model: Model, inputs: Arrays) -> Request:
        tensors: list[dict[str, Any]] = []
        raw: list[bytes] = []
        for name, array in inputs.items():
            tensor: dict[str, Any] = {"name": name, "datatype": dtype_of(array).oip, "shape": list(array.shape)}
            tensors.append(tensor)
            if self._binary:
                raw.append(encode_raw(array))
                tensor["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                flat = array.ravel()
                tensor["data"] = [_text(value, name) for value in flat.tolist()] if array.dtype == object else flat
        parameters: dict[str, Any] = {"binary_data_output": True} if self._binary else {}
        if model.signature != DEFAULT_SIGNATURE:
            parameters[SIGNATURE_NAME] = model.signature
        document: dict[str, Any] = {"inputs": tensors}
        if parameters:
            document["parameters"] = parameters
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = (("Inference-Header-Content-Length", str(len(head))),) if self._binary else ()
        return Request(f"{_path(model)}/infer", b"".join((head, *raw)), headers=headers)

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        if self._binary:
            raise InvalidArgument("Expected an NPZ file of tensors for oip-rest-binary. Received: a JSON body.")
        return Request(f"{_path(model)}/infer", body)

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        length = len(answer.body) if answer.json_length is None else answer.json_length
        position, outputs = length, {}
        for item in orjson.loads(answer.body[:length])["outputs"]:
            name, shape = item["name"], tuple(item["shape"])
            if "data" in item:
                outputs[name] = _from_json(item, shape)
                continue
            end = position + item["parameters"]["binary_data_size"]
            outputs[name] = _from_raw(answer.body[position:end], name, item["datatype"], shape)
            position = end
        return outputs


def _signature(described: Mapping[str, Any]) -> Signature:
    """The signature whose tensors are as metadata has them."""
    inputs, outputs = (
        tuple(TensorSpec(item["name"], BY_OIP[item["datatype"]], tuple(item["shape"])) for item in described[side])
        for side in ("inputs", "outputs")
    )
    return Signature(inputs, outputs)


def _chosen(described: Mapping[str, Any], model: Model) -> Mapping[str, Any]:
    """The wanted one of a model's signatures. Raises InvalidArgument where it is not among them."""
    if model.signature not in described:
        known = ", ".join(sorted(described)) or DEFAULT_SIGNATURE
        raise InvalidArgument(f"Expected a signature out of {known}. Received: {model.signature}.")
    chosen: Mapping[str, Any] = described[model.signature]
    return chosen


def _from_json(item: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.array(item["data"], datatype_of(item["datatype"], item["name"]).numpy).reshape(shape)


def _from_raw(raw: bytes, name: str, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    return decode_raw(raw, datatype_of(datatype, name), shape, prod(shape), name)


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f'Tensor "{name}": expected UTF-8 text, as JSON can carry. Use oip-rest-binary.'
        ) from error


def _path(model: Model) -> str:
    return f"/v2/models/{model.name}" + (f"/versions/{model.version}" if model.version is not None else "")


def _version(model: Model) -> str:
    return "" if model.version is None else str(model.version)
