"""What an Open Inference Protocol request over REST says in its JSON, all but the values of its tensors.

A `Form` is what requests of one text have in common; `oip_rest_request` keeps those it has met, and puts the values in.

Source: the Open Inference Protocol's REST API, and Triton's binary tensor data and schedule policy extensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.errors import InvalidArgument, Unimplemented
from services.protocols.json_text import describe, parse_object
from services.protocols.oip_raw import datatype_of
from services.protocols.oip_signatures import SIGNATURE_NAME, chosen_signature
from services.protocols.shapes import checked_shape
from services.tensors import DType

_MAX_TIMEOUT_US = 2**53


@dataclass(frozen=True, slots=True)
class Slot:
    """One input but for its values: those are `data` as JSON has them, or the next `size` bytes behind it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    count: int
    size: int | None
    data: Any


@dataclass(frozen=True, slots=True)
class Form:
    """A request's JSON, understood and checked as far as that goes without the tensors' values."""

    inputs: tuple[Slot, ...]
    outputs: tuple[str, ...]
    id: str
    binary: dict[str, bool]
    binary_default: bool
    timeout_us: int
    signature: str


def read_form(text: bytes) -> Form:
    """The form of a whole JSON text. Raises InvalidArgument."""
    document = parse_object(text, allow_not_finite=False)
    parameters = _parameters(document, "the request")
    slots: dict[str, Slot] = {}
    for item in _objects(document, "inputs", required=True):
        name = _name(item, "inputs")
        if name in slots:
            raise InvalidArgument(f'Expected each input once. Received: "{name}" twice.')
        slots[name] = _read_input(item, name)
    outputs = _read_outputs(document)
    return Form(
        inputs=tuple(slots.values()),
        outputs=tuple(outputs),
        id=_typed(document, "id", str, "", "the request"),
        binary={name: binary for name, binary in outputs.items() if binary is not None},
        binary_default=_typed(parameters, "binary_data_output", bool, False, "the request's parameters"),
        timeout_us=_timeout_us(parameters),
        signature=chosen_signature(parameters.get(SIGNATURE_NAME)),
    )


def _read_input(item: Mapping[str, Any], name: str) -> Slot:
    where = f'input "{name}"'
    dtype = datatype_of(_typed(item, "datatype", str, None, where), name)
    dims = _typed(item, "shape", list, None, where)
    if not all(type(dim) is int for dim in dims):
        raise InvalidArgument(f"Expected integers in the shape of {where}. Received: {describe(dims)}.")
    shape, count = checked_shape(dims, name)
    parameters = _parameters(item, where)
    if "shared_memory_region" in parameters:
        raise Unimplemented(f"Expected data or binary data for {where}: shared memory is not served.")
    size = parameters.get("binary_data_size")
    if "binary_data_size" in parameters:
        if type(size) is not int or size < 0:
            raise InvalidArgument(f"Expected binary_data_size of {where} in bytes. Received: {describe(size)}.")
        if "data" in item:
            raise InvalidArgument(f"Expected one of 'data' and 'binary_data_size' for {where}. Received: both.")
    elif "data" not in item:
        raise InvalidArgument(f"Expected one of 'data' and 'binary_data_size' for {where}. Received: neither.")
    return Slot(name, dtype, shape, count, size, item.get("data"))


def _read_outputs(document: Mapping[str, Any]) -> dict[str, bool | None]:
    """The outputs asked for, and whether in binary; None where they do not say."""
    outputs: dict[str, bool | None] = {}
    for item in _objects(document, "outputs", required=False):
        name = _name(item, "outputs")
        if name in outputs:
            raise InvalidArgument(f'Expected each output once. Received: "{name}" twice.')
        where = f'output "{name}"'
        parameters = _parameters(item, where)
        for unserved in ("classification", "shared_memory_region"):
            if unserved in parameters:
                raise Unimplemented(f"Expected an output as it is: {unserved} of {where} is not served.")
        outputs[name] = _typed(parameters, "binary_data", bool, None, where) if "binary_data" in parameters else None
    return outputs


def _timeout_us(parameters: Mapping[str, Any]) -> int:
    """The microseconds a `timeout` asks for; 0 asks for none."""
    for key in parameters:
        if key.startswith("triton_"):
            raise InvalidArgument(f"Expected parameters of the client's own. Received: {key}; 'triton_' is reserved.")
    timeout_us: int = _typed(parameters, "timeout", int, 0, "the request's parameters")
    if not 0 <= timeout_us <= _MAX_TIMEOUT_US:
        raise InvalidArgument(f"Expected a timeout in microseconds, from 0. Received: {timeout_us}.")
    return timeout_us


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
