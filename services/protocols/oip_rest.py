"""The Open Inference Protocol's REST dialect: JSON bodies and binary tensors to engine requests, and back.

A request is JSON, or JSON and behind it the bytes of the tensors that say `binary_data_size`; the header
`Inference-Header-Content-Length` says where the JSON ends. With that length 0 the body is the bytes of the model's single
input, for one row, and every output is answered in binary.

Decisions where servers differ:
- NaN and Infinity are no JSON. In a request they are refused, as any JSON parser would. In an answer they are an error that
  asks for binary data: Triton writes tokens that strict parsers choke on, KServe writes null, which makes NaN and both
  infinities one. Binary tensors carry them unharmed.
- FP16 travels in binary alone, as in Triton.
- An output that is asked for by name without saying `binary_data` follows the request's `binary_data_output`.

Sources: the Open Inference Protocol's REST API, and Triton's binary tensor data and schedule policy extensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import orjson

from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import InvalidArgument, Unimplemented
from services.protocols.json_arrays import finite_text, flatten, json_type, string_values, to_array
from services.protocols.json_explain import first_wrong
from services.protocols.json_text import describe, parse_object
from services.protocols.oip_raw import datatype_of, decode_raw, encode_raw
from services.protocols.shapes import checked_shape, expect_count
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC, DType, Signature, TensorSpec, dtype_of

_MAX_TIMEOUT_US = 2**53


@dataclass(slots=True)
class Infer:
    """A decoded `/infer` request, and how its answer is to look.

    `binary` says per requested output whether it goes in binary; `binary_default` decides for all others.
    """

    request: InferenceRequest
    id: str = ""
    binary: dict[str, bool] = field(default_factory=dict)
    binary_default: bool = False


def decode_infer(body: bytes, header_length: int | None, *, model: str, version: int | None, now_s: float) -> Infer:
    """A request with a JSON header. `header_length` is the JSON's length in bytes, None where the body is all JSON.

    `now_s` is the engine's clock; a `timeout` in microseconds becomes the request's deadline. Raises InvalidArgument.
    """
    view = memoryview(body)
    document = parse_object(body if header_length is None else view[:header_length], allow_not_finite=False)
    parameters = _parameters(document, "the request")
    tail = _Tail(view[len(body) if header_length is None else header_length :], model)
    inputs: dict[str, np.ndarray] = {}
    for item in _objects(document, "inputs", required=True):
        name = _name(item, "inputs")
        if name in inputs:
            raise InvalidArgument(f'Expected each input once. Received: "{name}" twice.')
        inputs[name] = _decode_input(item, name, tail)
    tail.expect_end()
    infer = Infer(
        InferenceRequest(model=model, inputs=inputs, version=version, deadline=_deadline(parameters, now_s)),
        id=_typed(document, "id", str, "", "the request"),
        binary_default=_typed(parameters, "binary_data_output", bool, False, "the request's parameters"),
    )
    _decode_outputs(document, infer)
    return infer


def decode_raw_infer(body: bytes, signature: Signature, *, model: str, version: int | None) -> Infer:
    """A raw binary request: the whole body is one row of the model's single input. Raises InvalidArgument."""
    if len(signature.inputs) != 1:
        raise InvalidArgument(
            f"Expected a model with a single input for a raw binary request. Received: {model} with inputs "
            f"{', '.join(spec.name for spec in signature.inputs)}."
        )
    spec = signature.inputs[0]
    shape = _raw_shape(spec, len(body), row=signature.batchable)
    if spec.dtype.is_string:
        array = np.empty(1, object)
        array[0] = body
        array = array.reshape(shape)
    else:
        array = decode_raw(body, spec.dtype, shape, prod(shape), spec.name)
    request = InferenceRequest(model=model, inputs={spec.name: array}, version=version, signature=DEFAULT_SIGNATURE)
    return Infer(request, binary_default=True)


def encode_infer(response: InferenceResponse, infer: Infer) -> tuple[list[bytes], int | None]:
    """The answer's body in parts, and the length of its JSON where binary tensors follow.

    Raises InvalidArgument for an output that JSON cannot carry.
    """
    parts: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    any_binary = False
    for name, array in response.outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": dtype_of(array).oip, "shape": array.shape}
        if infer.binary.get(name, infer.binary_default):
            data = encode_raw(array)
            output["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
            any_binary = True
        else:
            output["data"] = _json_data(name, array)
        outputs.append(output)
    document: dict[str, Any] = {"id": infer.id} if infer.id else {}
    document["model_name"] = response.model
    document["model_version"] = str(response.version)
    document["outputs"] = outputs
    head = orjson.dumps(document)
    return [head, *parts], len(head) if any_binary else None


def encode_server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    return orjson.dumps({"name": name, "version": version, "extensions": extensions})


def encode_model_metadata(model: str, versions: Sequence[int], platform: str, signature: Signature) -> bytes:
    """Metadata of one version; an unknown rank is told as one variable axis, as the protocol has no word for it."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {"name": spec.name, "datatype": spec.dtype.oip, "shape": (DYNAMIC,) if spec.shape is None else spec.shape}
            for spec in specs
        ]

    return orjson.dumps(
        {
            "name": model,
            "versions": [str(version) for version in versions],
            "platform": platform,
            "inputs": tensors(signature.inputs),
            "outputs": tensors(signature.outputs),
        }
    )


class _Tail:
    """The bytes behind the JSON, handed out in the order of the inputs."""

    def __init__(self, data: memoryview, model: str) -> None:
        self._data = data
        self._position = 0
        self._model = model

    def take(self, size: int, name: str) -> memoryview:
        end = self._position + size
        if end > len(self._data):
            raise InvalidArgument(
                f"unexpected size for input '{name}', expecting {end - len(self._data)} additional bytes for model "
                f"'{self._model}'"
            )
        data = self._data[self._position : end]
        self._position = end
        return data

    def expect_end(self) -> None:
        if self._position < len(self._data):
            raise InvalidArgument(
                f"unexpected additional input data for model '{self._model}': {len(self._data) - self._position} bytes "
                f"behind the last binary tensor"
            )


def _decode_input(item: Mapping[str, Any], name: str, tail: _Tail) -> np.ndarray:
    where = f'input "{name}"'
    dtype = datatype_of(_typed(item, "datatype", str, None, where), name)
    dims = _typed(item, "shape", list, None, where)
    if not all(type(dim) is int for dim in dims):
        raise InvalidArgument(f"Expected integers in the shape of {where}. Received: {describe(dims)}.")
    shape, count = checked_shape(dims, name)
    parameters = _parameters(item, where)
    if "shared_memory_region" in parameters:
        raise Unimplemented(f"Expected data or binary data for {where}: shared memory is not served.")
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if type(size) is not int or size < 0:
            raise InvalidArgument(f"Expected binary_data_size of {where} in bytes. Received: {describe(size)}.")
        if "data" in item:
            raise InvalidArgument(f"Expected one of 'data' and 'binary_data_size' for {where}. Received: both.")
        return decode_raw(tail.take(size, name), dtype, shape, count, name)
    if "data" not in item:
        raise InvalidArgument(f"Expected one of 'data' and 'binary_data_size' for {where}. Received: neither.")
    return _decode_data(item["data"], dtype, shape, count, name)


def _decode_data(data: Any, dtype: DType, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """Flat or nested lists in row-major order; only the number of values must be the shape's."""
    if type(data) is not list:
        raise InvalidArgument(f'Tensor "{name}": expected a list as data. Received: {describe(data)}.')
    if dtype.name == "float16":
        raise InvalidArgument(
            f'Tensor "{name}": sending FP16 data via JSON is not supported. Please use the binary data format for input.'
        )
    flat = flatten(data)
    if flat is None:
        raise InvalidArgument(
            f'Tensor "{name}": expected flat or regularly nested lists as data. Received: ragged lists.'
        )
    leaves, _ = flat
    expect_count(name, "values", shape, count, len(leaves))
    objects = dtype.is_string and dict in set(map(type, leaves))  # base64 is TensorFlow Serving's way to write bytes
    array = None if objects else to_array(leaves, shape, dtype)
    if array is None:
        wrong = next(leaf for leaf in leaves if type(leaf) is dict) if objects else first_wrong(leaves, dtype)
        raise InvalidArgument(
            f'Tensor "{name}": expected values of {dtype.oip}. Received: {describe(wrong)} of type {json_type(wrong)}.'
        )
    return array


def _decode_outputs(document: Mapping[str, Any], infer: Infer) -> None:
    names: list[str] = []
    for item in _objects(document, "outputs", required=False):
        name = _name(item, "outputs")
        if name in names:
            raise InvalidArgument(f'Expected each output once. Received: "{name}" twice.')
        names.append(name)
        where = f'output "{name}"'
        parameters = _parameters(item, where)
        for unserved in ("classification", "shared_memory_region"):
            if unserved in parameters:
                raise Unimplemented(f"Expected an output as it is: {unserved} of {where} is not served.")
        if "binary_data" in parameters:
            infer.binary[name] = _typed(parameters, "binary_data", bool, None, where)
    infer.request.outputs = tuple(names)


def _deadline(parameters: Mapping[str, Any], now_s: float) -> float | None:
    """The deadline a `timeout` in microseconds asks for; 0 asks for none."""
    for key in parameters:
        if key.startswith("triton_"):
            raise InvalidArgument(f"Expected parameters of the client's own. Received: {key}; 'triton_' is reserved.")
    timeout_us = _typed(parameters, "timeout", int, 0, "the request's parameters")
    if not 0 <= timeout_us <= _MAX_TIMEOUT_US:
        raise InvalidArgument(f"Expected a timeout in microseconds, from 0. Received: {timeout_us}.")
    return now_s + timeout_us / 1e6 if timeout_us else None


def _raw_shape(spec: TensorSpec, size: int, *, row: bool) -> tuple[int, ...]:
    """The shape of one row of `spec` in `size` bytes; at most one further axis may be variable."""
    if spec.shape is None:
        raise InvalidArgument(f"Expected an input of known rank for a raw binary request. Received: {spec}.")
    shape = [1, *spec.shape[1:]] if row else list(spec.shape)
    if shape.count(DYNAMIC) > (0 if spec.dtype.is_string else 1) or (spec.dtype.is_string and prod(shape) != 1):
        allowed = "a shape of one element" if spec.dtype.is_string else "at most one variable axis"
        raise InvalidArgument(f"Expected an input with {allowed} for a raw binary request. Received: {spec}.")
    if DYNAMIC in shape:
        fixed = -prod(shape) * spec.dtype.itemsize
        shape[shape.index(DYNAMIC)] = size // fixed if fixed else 0
    return tuple(shape)


def _json_data(name: str, array: np.ndarray) -> Any:
    """An output's values in row-major order, as orjson is to write them."""
    if array.dtype.kind in "OSU":
        return string_values(array, f'Output "{name}"')
    if array.dtype == np.float16:
        raise InvalidArgument(
            f'Output "{name}": sending FP16 data via JSON is not supported. Please use the binary data format for output.'
        )
    text = finite_text(array.ravel())
    if text is None:
        raise InvalidArgument(
            f'Output "{name}": expected finite values, as JSON can carry. Received: NaN or Infinity from the model. '
            f"Please use the binary data format for output."
        )
    return orjson.Fragment(text)


def _parameters(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters: dict[str, Any] = _typed(item, "parameters", dict, {}, where)
    return parameters


def _objects(document: Mapping[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    items = _typed(document, key, list, None if required else [], "the request")
    for item in items:
        if type(item) is not dict:
            raise InvalidArgument(f"Expected an object per tensor in '{key}'. Received: {describe(item)}.")
    return list(items)


def _name(item: Mapping[str, Any], key: str) -> str:
    name: str = _typed(item, "name", str, None, f"an element of '{key}'")
    if not name:
        raise InvalidArgument(f"Expected a name for each element of '{key}'. Received: an empty one.")
    return name


_JSON_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


def _typed(item: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """A member of that type. Raises InvalidArgument where it is of another, or missing without a default.

    null is as good as missing: clients that write out their own data classes (MLServer's, KServe's) send it.
    """
    value = item.get(key)
    if type(value) is kind:
        return value
    if value is None and default is not None:
        return default
    received = describe(value) if key in item else "none"
    raise InvalidArgument(f"Unable to parse '{key}' of {where}: expected {_JSON_NAMES[kind]}. Received: {received}.")
