"""What `make demo` calls a server with: the official clients of both dialects, and plain HTTP."""

import base64
import io
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import numpy as np

from services.launch import ServerProcess
from services.tensors import TensorSpec, dtype_of

TIMEOUT_S = 30.0

ENDPOINTS = {
    "regression": ("regress", "records"),
    "classification": ("classify", "records"),
    "image_classification": ("classify_image", "images"),
    "forecasting": ("forecast", "windows"),
    "text_classification": ("classify_text", "texts"),
    "anomaly_detection": ("detect_anomaly", "records"),
    "image_features": ("extract_features", "images"),
    "text_to_image": ("generate_image", "prompt"),
    "tabular_features": ("encode_records", "records"),
}
"""Path and member of the typed call of each task."""

Arrays = Mapping[str, np.ndarray]


class Clients:
    """One connection of each kind to a server. Every call takes and returns arrays by tensor name, `typed` apart."""

    def __init__(self, server: ServerProcess) -> None:
        import grpc
        import tritonclient.grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._url = server.http_url
        self._channel = grpc.insecure_channel(server.grpc_address, options=[("grpc.max_receive_message_length", -1)])
        self._tfs = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._triton = tritonclient.grpc.InferenceServerClient(server.grpc_address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._triton.close()
        self._channel.close()

    def tfs_grpc(self, model: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """PredictionService.Predict through the tensorflow-serving-api stubs."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._tfs.Predict(request, timeout=TIMEOUT_S)
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def oip_grpc(self, model: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """GRPCInferenceService.ModelInfer through tritonclient."""
        import tritonclient.grpc

        tensors = []
        for name, array in inputs.items():
            tensor = tritonclient.grpc.InferInput(name, array.shape, dtype_of(array).oip)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        result = self._triton.infer(model, tensors, client_timeout=TIMEOUT_S)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def tfs_rest(self, model: str, inputs: Arrays, outputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
        """`/v1/models/<model>:predict`, columnar."""
        body = {"inputs": {name: array.tolist() for name, array in inputs.items()}}
        answer = self._post(f"/v1/models/{model}:predict", body)["outputs"]
        columns = {next(iter(outputs)): answer} if len(outputs) == 1 else answer
        return {name: np.array(values, outputs[name].dtype.numpy) for name, values in columns.items()}

    def oip_rest(self, model: str, inputs: Arrays, outputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
        """`/v2/models/<model>/infer`, JSON."""
        tensors = [
            {"name": name, "datatype": dtype_of(array).oip, "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in inputs.items()
        ]
        answer = self._post(f"/v2/models/{model}/infer", {"inputs": tensors})["outputs"]
        return {
            tensor["name"]: np.array(tensor["data"], outputs[tensor["name"]].dtype.numpy).reshape(tensor["shape"])
            for tensor in answer
        }

    def typed(self, task: str, model: str, payload: list[Any]) -> list[dict[str, Any]]:
        """The task's BentoML endpoint: one plain answer per record."""
        path, member = ENDPOINTS[task]
        if task == "text_to_image":
            return [{"image": self._picture(f"/{path}", {**record, "model": model, "scale": 1})} for record in payload]
        predictions: list[dict[str, Any]] = self._post(f"/{path}", {member: payload, "model": model})["predictions"]
        return predictions

    def _picture(self, path: str, body: Any) -> str:
        """The PNG file that a call answers, in base64."""
        return base64.b64encode(self._send(path, body)).decode()

    def _post(self, path: str, body: Any) -> Any:
        return json.loads(self._send(path, body))

    def _send(self, path: str, body: Any) -> bytes:
        request = Request(self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - the demo's own server
        with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - as above
            content: bytes = response.read()
            return content


def payload_of(task: str, rows: np.ndarray) -> list[Any]:
    """The rows of a model's one input as a person would send them to the typed endpoint; texts have no such way back."""
    if task in ("image_classification", "image_features"):
        return [_png(image) for image in rows]
    if rows.ndim > 2:
        return list(rows.tolist())
    return [[None if np.isnan(value) else value for value in row] for row in rows.tolist()]


def _png(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
