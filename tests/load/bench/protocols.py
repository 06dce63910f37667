"""One request of each protocol for rows of a model, and what its answer says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.protocols import messages
from services.tensors import BY_NAME
from tests.load.bench.models import Model, Tensor

OIP_GRPC, TFS_GRPC, V2_JSON, V2_BINARY, TFS_REST = "oip-grpc", "tfs-grpc", "v2-json", "v2-binary", "tfs-rest"
TYPED, ECHO_GRPC, ECHO_HTTP = "typed", "echo-grpc", "echo-http"
GRPC = frozenset({OIP_GRPC, TFS_GRPC, ECHO_GRPC})
PROTOCOLS = (OIP_GRPC, TFS_GRPC, V2_JSON, V2_BINARY, TFS_REST, TYPED, ECHO_GRPC, ECHO_HTTP)

OIP_METHOD = "/inference.GRPCInferenceService/ModelInfer"
TFS_METHOD = "/tensorflow.serving.PredictionService/Predict"
_JSON = {"content-type": "application/json"}
_BYTES = "application/octet-stream"
_ECHO_BYTES = 32
_RTOL, _ATOL = 1e-3, 1e-5

_TYPED_ENDPOINTS = {"regressor": ("regress", "records"), "classifier": ("classify", "records")}


@dataclass(frozen=True)
class Request:
    """A request ready to be sent any number of times. `body` of a gRPC request is the message without its prefix."""

    protocol: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_grpc(self) -> bool:
        return self.protocol in GRPC

    @property
    def framed(self) -> bytes:
        """The message of a gRPC request with its prefix, as it is sent."""
        return b"\0" + len(self.body).to_bytes(4, "big") + self.body


def build(protocol: str, model: Model, rows: np.ndarray, *, plain_typed: bool = False) -> Request:
    """`plain_typed`: the typed endpoint is one of BentoML alone, which takes an array."""
    if protocol == OIP_GRPC:
        return Request(protocol, OIP_METHOD, _oip(model, rows))
    if protocol == TFS_GRPC:
        return Request(protocol, TFS_METHOD, _predict(model, rows))
    if protocol == V2_JSON:
        tensor = _v2_tensor(model.input, rows) | {"data": rows.ravel().tolist()}
        return Request(protocol, f"/v2/models/{model.name}/infer", _dump({"inputs": [tensor]}), _JSON)
    if protocol == V2_BINARY:
        return _v2_binary(model, rows)
    if protocol == TFS_REST:
        return Request(protocol, f"/v1/models/{model.name}:predict", _dump({"instances": rows.tolist()}), _JSON)
    if protocol == TYPED:
        return _typed(model, rows, plain=plain_typed)
    if protocol == ECHO_GRPC:
        return build_echo()
    if protocol == ECHO_HTTP:
        return Request(protocol, "/echo", bytes(_ECHO_BYTES), {"content-type": _BYTES})
    raise ValueError(f"Expected one of {', '.join(PROTOCOLS)}. Received: {protocol}")


def build_echo() -> Request:
    """What the bare echoes are asked over gRPC."""
    return Request(ECHO_GRPC, OIP_METHOD, bytes(_ECHO_BYTES))


def problem(request: Request, model: Model, answer: bytes, expected: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with an answer, or None where it carries onnxruntime's own numbers."""
    if request.protocol in {ECHO_GRPC, ECHO_HTTP}:
        return None if answer == request.body else f"expected an echo, received {answer[:80]!r}"
    try:
        received = _READERS[request.protocol](answer, model)
    except Exception as error:  # noqa: BLE001 - whatever a foreign answer breaks is the outcome
        return f"{type(error).__name__}: {error} in {answer[:200]!r}"
    for name, value in received.items():
        want = expected[name].ravel()
        got = np.asarray(value).ravel()
        if got.size != want.size or not np.allclose(got.astype("f8"), want.astype("f8"), rtol=_RTOL, atol=_ATOL):
            return f"{name}: expected {want[:4]}, received {got[:4]}"
    return None if received else f"no output in {answer[:200]!r}"


def _oip(model: Model, rows: np.ndarray) -> bytes:
    message = messages.ModelInferRequest(model_name=model.name)
    message.inputs.add(name=model.input.name, datatype=model.input.datatype, shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    data: bytes = message.SerializeToString()
    return data


def _predict(model: Model, rows: np.ndarray) -> bytes:
    message = messages.PredictRequest()
    message.model_spec.name = model.name
    tensor = message.inputs[model.input.name]
    tensor.dtype = BY_NAME[rows.dtype.name].tf_enum
    for axis in rows.shape:
        tensor.tensor_shape.dim.add(size=axis)
    tensor.tensor_content = rows.tobytes()
    data: bytes = message.SerializeToString()
    return data


def _v2_tensor(tensor: Tensor, rows: np.ndarray) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(rows.shape), "datatype": tensor.datatype}


def _v2_binary(model: Model, rows: np.ndarray) -> Request:
    tensor = _v2_tensor(model.input, rows) | {"parameters": {"binary_data_size": rows.nbytes}}
    header = _dump({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"content-type": _BYTES, "inference-header-content-length": str(len(header))}
    return Request(V2_BINARY, f"/v2/models/{model.name}/infer", header + rows.tobytes(), headers)


def _typed(model: Model, rows: np.ndarray, *, plain: bool) -> Request:
    if plain:
        return Request(TYPED, f"/{model.name}", _dump({"x": rows.tolist()}), _JSON)
    endpoint, member = _TYPED_ENDPOINTS[model.name.removeprefix("family-")]
    return Request(TYPED, f"/{endpoint}", _dump({member: rows.tolist(), "model": model.name}), _JSON)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _read_oip(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    message = messages.ModelInferResponse.FromString(answer)
    dtypes = {output.name: output.dtype for output in model.outputs}
    received = {}
    for index, output in enumerate(message.outputs):
        if message.raw_output_contents:
            received[output.name] = np.frombuffer(message.raw_output_contents[index], dtypes[output.name])
        else:
            received[output.name] = np.array(next(value for _, value in output.contents.ListFields()))
    return received


def _read_predict(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    message = messages.PredictResponse.FromString(answer)
    received = {}
    for output in model.outputs:
        tensor = message.outputs[output.name]
        values = {"f4": tensor.float_val, "?": tensor.bool_val, "f8": tensor.double_val, "i4": tensor.int_val}
        listed = values.get(output.dtype.str[1:] if output.dtype.kind != "b" else "?", tensor.int64_val)
        content = tensor.tensor_content
        received[output.name] = np.frombuffer(content, output.dtype) if content else np.array(listed)
    return received


def _read_v2(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    return {output["name"]: np.array(output["data"]) for output in json.loads(answer)["outputs"]}


def _read_v2_binary(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    """The JSON ends where the first brace that balances does; the tensors follow in the order of the outputs."""
    header, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    dtypes = {output.name: output.dtype for output in model.outputs}
    received = {}
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        received[output["name"]] = np.frombuffer(answer[end : end + size], dtypes[output["name"]])
        end += size
    return received


def _read_tfs(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    predictions = json.loads(answer)["predictions"]
    if len(model.outputs) == 1:
        return {model.outputs[0].name: np.array(predictions)}
    return {output.name: np.array([row[output.name] for row in predictions]) for output in model.outputs}


def _read_typed(answer: bytes, model: Model) -> dict[str, np.ndarray]:
    """BentoML alone answers the array; cornet an object per row, whose numbers are the first output's."""
    value = json.loads(answer)
    rows = value["predictions"] if isinstance(value, dict) else value
    numbers = [
        [item for item in row.values() if isinstance(item, float)] if isinstance(row, dict) else row for row in rows
    ]
    return {model.outputs[0].name: np.array(numbers)}


_READERS = {
    OIP_GRPC: _read_oip,
    TFS_GRPC: _read_predict,
    V2_JSON: _read_v2,
    V2_BINARY: _read_v2_binary,
    TFS_REST: _read_tfs,
    TYPED: _read_typed,
}
