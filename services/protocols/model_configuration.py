"""Triton's model configuration extension: what its clients and perf_analyzer ask before they send a request.

Only what is true of a model here is said; fields of Triton's configuration that have no counterpart are left out.

Source: Triton's `protocol/extension_model_configuration.md` and `model_config.proto`.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from services.protocols.messages import ModelConfigRequest, ModelConfigResponse, parse
from services.protocols.oip_grpc import decode_version
from services.protocols.oip_signatures import SIGNATURES
from services.tensors import DYNAMIC, Signature, TensorSpec

_ON_CPU = ("CPUExecutionProvider", "CPU")  # ONNX Runtime's name and TensorFlow's
_BACKENDS = {"onnxruntime_onnx": "onnxruntime", "tensorflow_savedmodel": "tensorflow"}


def decode_request(data: bytes) -> tuple[str, int | None]:
    """The model and version of a serialised ModelConfigRequest. Raises InvalidArgument."""
    message = parse(ModelConfigRequest, data, "ModelConfigRequest")
    return message.name, decode_version(message.version)


def describe(
    model: str,
    platform: str,
    signature: Signature,
    max_batch_rows: int,
    max_queue_delay_us: int,
    *,
    provider: str,
    runs: int,
    signatures: str = "",
) -> dict[str, Any]:
    """The configuration as JSON has it. `max_batch_size` is 0 for a model whose requests are not merged, as in Triton; the
    tensors' shapes then are whole, else they lack the batch axis. `provider` runs the model, so many `runs` at a time.
    `signatures` is the description of all of them where there are several, see `oip_signatures`.
    """
    batched = signature.batchable
    config: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "backend": _BACKENDS.get(platform, ""),
        "max_batch_size": max_batch_rows if batched else 0,
        "input": [_tensor(spec, batched=batched) for spec in signature.inputs],
        "output": [_tensor(spec, batched=batched) for spec in signature.outputs],
        "instance_group": [
            {"name": provider, "kind": "KIND_CPU" if provider in _ON_CPU else "KIND_GPU", "count": runs}
        ],
    }
    if signatures:
        config["parameters"] = {SIGNATURES: {"string_value": signatures}}
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": max_queue_delay_us}
    return config


def encode_json(config: Mapping[str, Any]) -> bytes:
    return orjson.dumps(config)


def encode_grpc(config: Mapping[str, Any]) -> bytes:
    """The serialised ModelConfigResponse."""
    from google.protobuf import json_format

    data: bytes = json_format.ParseDict({"config": config}, ModelConfigResponse()).SerializeToString()
    return data


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = (DYNAMIC,) if spec.shape is None else spec.shape[1:] if batched else spec.shape
    kind = "STRING" if spec.dtype.is_string else spec.dtype.oip
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(dims)}
