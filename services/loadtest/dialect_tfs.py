"""TensorFlow Serving's dialect, seen from the client: gRPC and REST."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from services.errors import InvalidArgument
from services.loadtest.requests import Answer, Arrays, Description, Model, Request
from services.protocols import tensor_proto
from services.protocols.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from services.tensors import BY_TF_ENUM, DTYPES, DType, Signature, TensorSpec, dtype_of

_SERVICE = "/tensorflow.serving.PredictionService"
_BY_TF_NAME: Mapping[str, DType] = {dtype.tf_name: dtype for dtype in DTYPES}


class TfsGrpc:
    """PredictionService/Predict. Numbers travel in `tensor_content`, which costs client and server the least."""

    is_grpc = True

    def describe(self, model: Model) -> Request:
        message = GetModelMetadataRequest(metadata_field=["signature_def"])
        _name_model(message.model_spec, model)
        return Request(f"{_SERVICE}/GetModelMetadata", message.SerializeToString())

    def description(self, model: Model, answer: Answer) -> Description:
        try:
            packed = GetModelMetadataResponse.FromString(answer.body).metadata["signature_def"]
            definitions = SignatureDefMap.FromString(packed.value).signature_def
        except DecodeError as error:
            raise InvalidArgument(f"Expected a GetModelMetadataResponse. Received: {error}.") from error
        if model.signature not in definitions:
            raise _no_signature(model, definitions)
        definition = definitions[model.signature]
        return Description(Signature(_specs_of_proto(definition.inputs), _specs_of_proto(definition.outputs)))

    def predict(self, model: Model, inputs: Arrays) -> Request:
        message = PredictRequest()
        _name_model(message.model_spec, model)
        message.model_spec.signature_name = model.signature
        for name, array in inputs.items():
            tensor = message.inputs[name]
            if dtype_of(array).is_string:
                tensor.ParseFromString(tensor_proto.encode(array))
                continue
            tensor.dtype = dtype_of(array).tf_enum
            tensor.tensor_shape.SetInParent()
            for size in array.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = array.tobytes()
        return Request(f"{_SERVICE}/Predict", message.SerializeToString())

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        raise InvalidArgument("Expected an NPZ file of tensors for a gRPC protocol. Received: a JSON body.")

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        outputs = PredictResponse.FromString(answer.body).outputs
        return {name: tensor_proto.decode(outputs[name], name) for name in outputs}


class TfsRest:
    """`POST /v1/models/<name>:predict`: rows (`instances`) where the model counts rows, else whole tensors (`inputs`)."""

    is_grpc = False

    def describe(self, model: Model) -> Request:
        return Request(f"{_path(model)}/metadata", verb="GET")

    def description(self, model: Model, answer: Answer) -> Description:
        try:
            definitions = orjson.loads(answer.body)["metadata"]["signature_def"]["signature_def"]
            if model.signature not in definitions:
                raise _no_signature(model, definitions)
            definition = definitions[model.signature]
            inputs, outputs = (_specs_of_json(definition[side]) for side in ("inputs", "outputs"))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"Expected the metadata of a model. Received: {answer.body!r:.200}.") from error
        return Description(Signature(inputs, outputs))

    def predict(self, model: Model, inputs: Arrays) -> Request:
        document: dict[str, Any] = {"signature_name": model.signature}
        values = {name: _plain(array) for name, array in inputs.items()}
        lengths = {array.shape[0] if array.ndim else None for array in inputs.values()}
        if len(lengths) != 1 or None in lengths:
            document["inputs"] = values
        elif len(values) == 1:
            document["instances"] = next(iter(values.values()))
        else:
            document["instances"] = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return Request(f"{_path(model)}:predict", orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        return Request(f"{_path(model)}:predict", body)

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        """By name. The dialect drops the name of an only output: it is '' then."""
        document = orjson.loads(answer.body)
        if "outputs" in document:
            outputs = document["outputs"]
            return {
                name: np.array(value) for name, value in (outputs if type(outputs) is dict else {"": outputs}).items()
            }
        rows = document["predictions"]
        if rows and type(rows[0]) is dict and set(rows[0]) != {"b64"}:
            return {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return {"": np.array(rows)}


def _plain(array: np.ndarray) -> Any:
    """What orjson writes: bytes as text or, where they are no UTF-8, as base64 objects; halves as floats."""
    if array.dtype == object:
        flat = [_text(value) for value in array.ravel().tolist()]
        return _nest(flat, array.shape)
    return np.ascontiguousarray(array, np.float32 if array.dtype == np.float16 else array.dtype).tolist()


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _path(model: Model) -> str:
    return f"/v1/models/{model.name}" + (f"/versions/{model.version}" if model.version is not None else "")


def _name_model(spec: Any, model: Model) -> None:
    spec.name = model.name
    if model.version is not None:
        spec.version.value = model.version


def _specs_of_proto(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name,
            BY_TF_ENUM[tensors[name].dtype],
            None
            if tensors[name].tensor_shape.unknown_rank
            else tuple(dim.size for dim in tensors[name].tensor_shape.dim),
        )
        for name in sorted(tensors)
    )


def _specs_of_json(tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, info in tensors.items():
        shape = info["tensor_shape"]
        sizes = None if shape.get("unknown_rank") else tuple(int(dim["size"]) for dim in shape.get("dim", ()))
        specs.append(TensorSpec(name, _BY_TF_NAME[info["dtype"]], sizes))
    return tuple(specs)


def _no_signature(model: Model, known: Any) -> InvalidArgument:
    return InvalidArgument(f"Expected a signature out of {', '.join(sorted(known))}. Received: {model.signature}.")
