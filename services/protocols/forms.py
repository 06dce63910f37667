"""Requests of a form seen before: what all of their bytes but the values say is known without reading it again.

A client sends the same message over and over, but for the numbers in its one tensor. Where those lie is found once, by
walking a message that was read in full. From then on, a message of the same length with the same bytes around that place
says the same, whatever stands there: the place is the whole payload of one field of bytes, or of packed floating-point
values, which a parser steps over by the length in front of it. That comparison costs a fiftieth of reading the message.

    forms = Forms(oip_values)
    form = forms.match(data)                     # None: read the message, and `learn` what came of it
    values = data[form.start : form.stop]

Messages of more than one tensor, of strings and booleans, or written in any unusual way are never learnt.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from services.engine.request import InferenceRequest

Span: TypeAlias = tuple[int, int]
"""First byte, and the one after the last."""

Locate: TypeAlias = Callable[[bytes, np.dtype[Any]], Span | None]
"""Finds the values of a message's only tensor, of that type; None where it is not sure of them."""

_MOST_FORMS = 2048
_MOST_PLACES = 8
"""Where messages of one length may have their values: all of these are tried."""
_MOST_BYTES = 1024
"""Around the values: what a form keeps. Names are short; whoever sends longer ones waits for the parser."""

_NUMBERS = "iuf"
"""Kinds of numpy types whose every byte may be taken as it came: of a bool's, only 0 and 1."""

_BEYOND = 2**62
"""A position behind any message: where a value that does not end is said to end."""


class Form:
    """One form of request: its length, where its values lie, and what it asks, with some values or other.

    `lane` is for who serves it.
    """

    __slots__ = ("lane", "message_bytes", "request", "start", "stop")

    def __init__(self, message_bytes: int, start: int, stop: int, request: InferenceRequest) -> None:
        self.message_bytes = message_bytes
        self.start = start
        self.stop = stop
        self.request = request
        self.lane: Any = None


class Forms:
    """The forms seen, up to a number; then it begins anew."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._by_length: dict[int, list[tuple[int, int, dict[bytes, Form]]]] = {}
        self._count = 0

    def match(self, data: bytes) -> Form | None:
        """The form of a message, if it was seen before."""
        for start, stop, forms in self._by_length.get(len(data), ()):
            form = forms.get(data[:start] + data[stop:])
            if form is not None:
                return form
        return None

    def match_without(self, data: bytes, first: int, last: int) -> Form | None:
        """The form that a message has without its bytes from `first` to before `last`, where they lie before the values."""
        shift = last - first
        for start, stop, forms in self._by_length.get(len(data) - shift, ()):
            if start >= first:
                form = forms.get(data[:first] + data[last : start + shift] + data[stop + shift :])
                if form is not None:
                    return form
        return None

    def learn(self, data: bytes, request: InferenceRequest) -> None:
        """Remember the form of a message that was read as `request`, where that can be relied on."""
        array = next(iter(request.inputs.values())) if len(request.inputs) == 1 else None
        if array is None or not array.size or array.dtype.kind not in _NUMBERS:
            return
        if len(data) - array.nbytes > _MOST_BYTES:
            return
        span = self._locate(data, array.dtype)
        if span is None or data[span[0] : span[1]] != array.tobytes():
            return
        if self._count >= _MOST_FORMS:
            self._by_length.clear()
            self._count = 0
        start, stop = span
        like = {name: np.broadcast_to(np.zeros((), each.dtype), each.shape) for name, each in request.inputs.items()}
        places = self._by_length.setdefault(len(data), [])
        forms = next((forms for *place, forms in places if place == [start, stop]), None)
        if forms is None:
            if len(places) >= _MOST_PLACES:
                return
            forms = {}
            places.append((start, stop, forms))
        self._count += 1
        forms[data[:start] + data[stop:]] = Form(len(data), start, stop, replace(request, inputs=like, deadline=None))


def oip_values(data: bytes, dtype: np.dtype[Any]) -> Span | None:
    """Where a ModelInferRequest of one input has its values: raw contents, or packed fp32_contents or fp64_contents."""
    top = _fields(data, (0, len(data)))
    if not top.keys() <= {1, 2, 4, 5, 6, 7}:  # an id is for the parser
        return None
    tensor = _payload(top, 5)
    if tensor is None or 7 in top:
        return None if tensor is None else _payload(top, 7)
    contents = _payload(_fields(data, tensor), 5)
    field = {"float32": 6, "float64": 7}.get(dtype.name)
    return None if contents is None or field is None else _payload(_fields(data, contents), field)


def tfs_values(data: bytes, dtype: np.dtype[Any]) -> Span | None:
    """Where a PredictRequest of one input has its values: tensor_content, or packed float_val or double_val."""
    entry = _payload(_fields(data, (0, len(data))), 2)
    tensor = None if entry is None else _payload(_fields(data, entry), 2)
    if tensor is None:
        return None
    fields = _fields(data, tensor)
    if 4 in fields:
        return _payload(fields, 4)
    field = {"float32": 5, "float64": 6}.get(dtype.name)
    return None if field is None else _payload(fields, field)


Fields: TypeAlias = dict[int, list[Span | None]]
"""By number, where each occurrence of a field has its payload; None for one that is not delimited by a length."""


def _payload(fields: Fields, number: int) -> Span | None:
    """That of a field that is there once."""
    found = fields.get(number, ())
    return found[0] if len(found) == 1 else None


def _fields(data: bytes, span: Span) -> Fields:
    """The fields of a message; none at all where it holds what a writer would not write."""
    position, stop = span
    fields: Fields = {}
    while position < stop:
        key, position = _varint(data, position)
        payload: Span | None = None
        match key & 7:
            case 0:
                _, position = _varint(data, position)
            case 1:
                position += 8
            case 2:
                size, start = _varint(data, position)
                position = start + size
                payload = start, position
            case 5:
                position += 4
            case _:
                return {}
        fields.setdefault(key >> 3, []).append(payload)
    return fields if position == stop else {}


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The value at a position, and the position after it."""
    value = shift = 0
    while position < len(data) and shift < 64:
        group = data[position]
        position += 1
        value |= (group & 0x7F) << shift
        if group < 0x80:
            return value, position
        shift += 7
    return 0, _BEYOND
