"""TensorFlow Serving's REST dialect: JSON bodies to named arrays and back, model status and metadata as JSON.

Row format, `instances` -> `predictions`: a list with one element per row. One input: the element is its value, or an object
with that one name. Several: an object with exactly the inputs' names. Columnar format, `inputs` -> `outputs`: whole tensors,
by name, or bare where there is one. Bytes travel as `{"b64": "..."}`, and leave so from outputs whose name ends in `_bytes`.

What is read or written here and not there: float16 and uint16, which TensorFlow Serving does not take in JSON.

Source: tensorflow_serving/util/json_tensor.h and g3doc/api_rest.md; the messages keep its words, which clients look for.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from services import errors
from services.errors import CornetError, InvalidArgument
from services.protocols.json_arrays import flatten, is_finite, number_text, string_values, to_array
from services.protocols.json_explain import explain_rows, explain_tensor, is_record
from services.protocols.json_numbers import STAND_IN, STAND_IN_TEXT, read_numbers, row_texts
from services.protocols.json_text import describe, parse_object
from services.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

_BYTES_SUFFIX = "_bytes"
_LONGEST_FORM = 512
"""Bytes of text around the values that a form is found by."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsForm:
    """What bodies of one text ask that differ in the values of their `instances` alone."""

    signature_name: str


class Predict(NamedTuple):
    """A decoded `:predict` body; `row_format` says which form the answer takes."""

    inputs: dict[str, np.ndarray]
    row_format: bool


def parse_predict(body: bytes) -> tuple[dict[str, Any], str]:
    """The body's JSON object and the signature it names ('' is the default one). Raises InvalidArgument."""
    if not body:
        raise InvalidArgument("JSON Parse error: The document is empty")
    document = parse_object(body, allow_not_finite=True)
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise InvalidArgument(
            f"JSON Value: {describe(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return document, name or DEFAULT_SIGNATURE


def packed_rows(body: bytes) -> tuple[RowsForm, list[int | float], tuple[int, ...]] | None:
    """A body of plain rows whose text is known: their numbers, flat, and their shape; None for any other."""
    start, end = body.find(b"["), body.rfind(b"]") + 1
    if not 0 < start < end or start + len(body) - end > _LONGEST_FORM:
        return None
    form = _form_around(body[:start], body[end:])
    found = None if form is None else read_numbers(body[start:end])
    return None if form is None or found is None else (form, *found)


@lru_cache(512)
def _form_around(before: bytes, behind: bytes) -> RowsForm | None:
    """The form of a body with any JSON list between, which is its `instances`; None where it is not.

    Where the stand-in is read back as the instances, so is any other value in its place.
    """
    try:
        document, signature_name = parse_predict(before + STAND_IN_TEXT + behind)
    except InvalidArgument:
        return None
    return RowsForm(signature_name) if document.get("instances") == STAND_IN and "inputs" not in document else None


def unknown_signature(name: str, known: Iterable[str]) -> InvalidArgument:
    """What the REST dialect answers for a signature that the model does not have: another code than over gRPC."""
    return InvalidArgument(
        f'Serving signature name: "{name}" not found in signature def. Expected one of: {", ".join(known)}.'
    )


def decode_predict(document: Mapping[str, Any], signature: Signature) -> Predict:
    """Named arrays out of `instances` or `inputs`, in the signature's element types.

    Checked: names, element types, and that rows are alike. Shapes are the engine's business. Raises InvalidArgument.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    if not specs:
        raise InvalidArgument("Failed to get input map for signature: it has no inputs.")
    if "instances" in document:
        if "inputs" in document:
            raise InvalidArgument(
                f"JSON Value: {describe(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
                f"keys to exist "
            )
        return Predict(_decode_rows(document["instances"], specs), row_format=True)
    if "inputs" in document:
        return Predict(_decode_columns(document["inputs"], specs), row_format=False)
    raise InvalidArgument("Missing 'inputs' or 'instances' key")


def encode_predict(outputs: Mapping[str, np.ndarray], *, row_format: bool) -> bytes:
    """The answer's body; a single output's name is dropped. Raises InvalidArgument for what row format cannot say."""
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    if row_format:
        return b'{"predictions":' + _encode_rows(outputs) + b"}"
    if len(outputs) == 1:
        return b'{"outputs":' + b"".join(_text(name, array) for name, array in outputs.items()) + b"}"
    parts = [orjson.dumps(name) + b":" + _text(name, array) for name, array in outputs.items()]
    return b'{"outputs":{' + b",".join(parts) + b"}}"


def encode_packed(outputs: Mapping[str, np.ndarray], rows: int, firsts: Sequence[int]) -> list[bytes] | None:
    """What `encode_predict` would say, in row format, to each of several requests, in one go; see `row_texts` for None.

    A request has `rows` rows of every output, from its entry of `firsts` on.
    """
    values: list[bytes] = []
    for name, array in outputs.items():
        texts = row_texts(array) if array.ndim <= 2 else None
        if texts is None:
            return None
        if array.ndim == 2:
            texts = [b"[%b]" % text for text in texts]
        if len(outputs) > 1:
            key = orjson.dumps(name)
            texts = [b"%b:%b" % (key, text) for text in texts]
            texts = [b"%b,%b" % pair for pair in zip(values, texts, strict=True)] if values else texts
        values = texts
    if len(outputs) > 1:
        values = [b"{%b}" % text for text in values]
    return [b'{"predictions":[%b]}' % b",".join(values[first : first + rows]) for first in firsts]


def encode_status(statuses: Iterable[tuple[int, str, CornetError | None]]) -> bytes:
    """GetModelStatusResponse as JSON: (version, name of the state, why it failed) per version, highest first."""
    rows = [
        {
            "version": str(version),
            "state": state,
            "status": {
                "error_code": "OK" if error is None else _CODE_NAMES[error.code],
                "error_message": "" if error is None else str(error),
            },
        }
        for version, state, error in statuses
    ]
    return orjson.dumps({"model_version_status": rows}, option=orjson.OPT_INDENT_2)


def encode_metadata(model: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """GetModelMetadataResponse as JSON, 64-bit integers as strings, defaults printed."""
    definitions = {
        name: {
            "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
            "method_name": signature.method_name,
            "defaults": {},
        }
        for name, signature in signatures.items()
    }
    document = {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


_CODE_NAMES = {value: name for name, value in vars(errors).items() if name.isupper() and type(value) is int}
"""The names of google.rpc.Code by value, as protobuf's JSON prints an enum."""


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    """A TensorInfo. Its name is that of a graph's tensor; without a graph, ours and an output index."""
    dims = [{"size": str(size), "name": ""} for size in spec.shape or ()]
    return {
        "dtype": spec.dtype.tf_name,
        "tensor_shape": {"dim": dims, "unknown_rank": spec.shape is None},
        "name": spec.graph_name or f"{spec.name}:0",
    }


def _decode_rows(rows: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if type(rows) is not list:
        raise InvalidArgument(f"JSON Value: {describe(rows)} Excepting 'instances' to be an list/array")
    if not rows:
        raise InvalidArgument("JSON Value: [] No values in 'instances' array")
    if not is_record(rows[0]):
        if len(specs) > 1:
            raise InvalidArgument(
                f"instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                f"tensorinfo_map: {', '.join(specs)}"
            )
        name, spec = next(iter(specs.items()))
        array = _dense(rows, spec.dtype)
        return {name: array} if array is not None else explain_rows(rows, specs)
    names = specs.keys()
    if not all(type(row) is dict and row.keys() == names for row in rows):
        explain_rows(rows, specs)
    inputs: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        array = _dense([row[name] for row in rows], spec.dtype)
        if array is None:
            explain_rows(rows, specs)
        inputs[name] = array
    return inputs


def _decode_columns(value: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Whole tensors. Names beside the signature's are let pass, as TensorFlow Serving does."""
    if not is_record(value):
        if len(specs) > 1:
            raise InvalidArgument(
                f"inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {', '.join(specs)}"
            )
        value = {next(iter(specs)): value}
    inputs: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        if name not in value:
            raise InvalidArgument(f"Missing named input: {name} in 'inputs' object. Received: {describe(list(value))}.")
        array = _dense(value[name], spec.dtype)
        if array is None:
            explain_tensor(value[name], spec)
        inputs[name] = array
    return inputs


def _dense(value: Any, dtype: DType) -> np.ndarray | None:
    flat = flatten(value)
    return None if flat is None else to_array(*flat, dtype)


def _encode_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    batch: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise InvalidArgument(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise InvalidArgument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if len(outputs) == 1:
        return b"".join(_text(name, array) for name, array in outputs.items())
    columns = [_row_values(name, array) for name, array in outputs.items()]
    rows = [dict(zip(outputs, values, strict=True)) for values in zip(*columns, strict=True)]
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)


def _row_values(name: str, array: np.ndarray) -> Sequence[Any]:
    """What orjson is to write for each row of an output: arrays or numpy scalars, or finished text."""
    if array.dtype.kind in "OSU":
        return _nested_strings(name, array)
    if is_finite(array):
        return list(np.ascontiguousarray(array))
    return [orjson.Fragment(number_text(array[index, ...])) for index in range(len(array))]


def _text(name: str, array: np.ndarray) -> bytes:
    if array.dtype.kind in "OSU":
        return orjson.dumps(_nested_strings(name, array))
    return number_text(array)


def _nested_strings(name: str, array: np.ndarray) -> list[Any]:
    """Nested lists of text, or of base64 objects where the output's name says that it holds bytes."""
    values: list[Any]
    if name.endswith(_BYTES_SUFFIX):
        elements = array.ravel().tolist()
        values = [
            {"b64": base64.b64encode(item.encode() if isinstance(item, str) else item).decode()} for item in elements
        ]
    else:
        values = list(string_values(array, f'Output "{name}"'))
    nested = np.empty(len(values), object)
    nested[:] = values
    whole: list[Any] = nested.reshape(array.shape).tolist()
    return whole
