"""The Open Inference Protocol's REST requests: JSON bodies and binary tensors to engine requests.

A request is JSON, or JSON and behind it the bytes of the tensors that say `binary_data_size`; the header
`Inference-Header-Content-Length` says where the JSON ends. With that length 0 the body is the bytes of the model's single
input, for one row, and every output is answered in binary.

A client sends the same JSON again and again but for its numbers. What stays the same is read once, into a `Form`, which is
found again by its text: the JSON in front of binary tensors, or all that stands around the values of a single input. Any
other request, and any that is at fault, is read as a whole.

Decisions where servers differ:
- NaN and Infinity are no JSON, and are refused as any JSON parser would.
- FP16 travels in binary alone, as in Triton.
- An output that is asked for by name without saying `binary_data` follows the request's `binary_data_output`.

Sources: the Open Inference Protocol's REST API, and Triton's binary tensor data and schedule policy extensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import orjson

from services.engine.request import InferenceRequest
from services.errors import InvalidArgument
from services.protocols.json_arrays import flatten, json_type, to_array
from services.protocols.json_explain import first_wrong
from services.protocols.json_numbers import STAND_IN, STAND_IN_TEXT, read_numbers
from services.protocols.json_text import describe
from services.protocols.oip_raw import decode_raw
from services.protocols.oip_rest_form import Form, read_form
from services.protocols.shapes import expect_count
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC, DType, Signature, TensorSpec

_LONGEST_FORM = 1024
"""Bytes of text that a form is found by: enough for a few tensors, little to keep."""
_FORMS = 512

_NO_DATA: Any = object()


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
    form, data = _understood(body, header_length)
    tail = None if header_length is None else _Tail(memoryview(body)[header_length:], model)
    inputs: dict[str, np.ndarray] = {}
    for slot in form.inputs:
        if slot.size is not None:
            tail = tail or _Tail(memoryview(b""), model)
            inputs[slot.name] = decode_raw(
                tail.take(slot.size, slot.name), slot.dtype, slot.shape, slot.count, slot.name
            )
        else:
            values = slot.data if data is _NO_DATA else data
            inputs[slot.name] = _decode_data(values, slot.dtype, slot.shape, slot.count, slot.name)
    if tail is not None:
        tail.expect_end()
    deadline = now_s + form.timeout_us / 1e6 if form.timeout_us else None
    request = InferenceRequest(
        model=model,
        inputs=inputs,
        version=version,
        signature=form.signature,
        outputs=form.outputs,
        deadline=deadline,
    )
    return Infer(request, form.id, form.binary, form.binary_default)


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


@dataclass(frozen=True, slots=True, eq=False)
class PackedForm:
    """What requests of one text ask that differ in the values of their one tensor alone."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    count: int
    outputs: tuple[str, ...]
    id: str
    binary: Mapping[str, bool]
    binary_default: bool
    signature: str = DEFAULT_SIGNATURE


def packed_json(body: bytes) -> tuple[PackedForm, list[int | float]] | None:
    """A JSON request whose text is known, and its numbers, flat; None for what is to be decoded as a whole."""
    place = _values_at(body)
    if place is None:
        return None
    start, end = place
    form = _packed_around(body[:start], body[end:])
    found = None if form is None else read_numbers(body[start:end])
    return None if form is None or found is None or len(found[0]) != form.count else (form, found[0])


def packed_binary(body: bytes, header_length: int) -> tuple[PackedForm, bytes] | None:
    """The same of a request with one binary tensor: the tensor's bytes."""
    form = _packed_behind(body[:header_length]) if header_length <= _LONGEST_FORM else None
    if form is None or len(body) - header_length != form.count * form.dtype.itemsize:
        return None
    return form, body[header_length:]


@lru_cache(_FORMS)
def _packed_around(before: bytes, behind: bytes) -> PackedForm | None:
    form = _form_around(before, behind)
    return None if form is None else _packed(form)


@lru_cache(_FORMS)
def _packed_behind(head: bytes) -> PackedForm | None:
    try:
        form = read_form(head)
    except InvalidArgument:
        return None
    [slot, *more] = form.inputs or (None,)
    if more or slot is None or slot.size != slot.count * slot.dtype.itemsize:
        return None
    return _packed(form)


def _packed(form: Form) -> PackedForm | None:
    """Not where a time limit counts from each request, nor for types whose bytes are not their values."""
    [slot] = form.inputs
    if form.timeout_us or slot.dtype.numpy.kind not in "iuf" or not slot.count:
        return None
    return PackedForm(
        slot.name,
        slot.dtype,
        slot.shape,
        slot.count,
        form.outputs,
        form.id,
        form.binary,
        form.binary_default,
        form.signature,
    )


def _values_at(body: bytes) -> tuple[int, int] | None:
    """From where to where the values of a JSON request's only input may stand, where the text around them is short."""
    start = body.find(b"[", body.find(b'"data"'))
    end = body.find(b"}", start)
    return (start, end) if 0 < start < end and start + len(body) - end <= _LONGEST_FORM else None


def _understood(body: bytes, header_length: int | None) -> tuple[Form, Any]:
    """The request's form, and the JSON values of its only input where the form was found by the text around them."""
    if header_length is not None:
        head = body[:header_length]
        return (_form_of(head) if header_length <= _LONGEST_FORM else read_form(head)), _NO_DATA
    place = _values_at(body)
    if place is not None:
        start, end = place
        form = _form_around(body[:start], body[end:])
        if form is not None:
            try:
                return form, orjson.loads(memoryview(body)[start:end])
            except orjson.JSONDecodeError:
                pass  # the end was found too early, or the values are at fault: that is for the whole text to show
    return read_form(body), _NO_DATA


@lru_cache(_FORMS)
def _form_of(head: bytes) -> Form:
    return read_form(head)


@lru_cache(_FORMS)
def _form_around(before: bytes, behind: bytes) -> Form | None:
    """The form of a request of this text with any JSON values between, which are its only input's; None where they are not.

    Where the stand-in is read back as that input's data, so is any other value in its place.
    """
    try:
        form = read_form(before + STAND_IN_TEXT + behind)
    except InvalidArgument:
        return None
    if len(form.inputs) != 1 or form.inputs[0].data != STAND_IN:
        return None
    return replace(form, inputs=(replace(form.inputs[0], data=None),))


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
