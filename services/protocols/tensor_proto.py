"""tensorflow.TensorProto <-> numpy.

Answers use the typed fields (`float_val`, ...), as TensorFlow Serving does by default; requests may use those or
`tensor_content`, which is taken without a copy.

Sources: tensorflow/core/framework/tensor.proto and tensor.cc (`Tensor::FromProto`) for the fields, the repeated last
value and the all-default tensor; tensorflow/core/platform/tensor_coding.cc for strings in `tensor_content`.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from services.errors import InvalidArgument
from services.protocols.messages import DATA_TYPE_NAMES, TensorProto
from services.protocols.shapes import LITTLE_ENDIAN, checked_shape, expect_count, narrowed, view_bytes
from services.protocols.wire import delimited, packed_values, tag, varint
from services.tensors import BY_NAME, BY_NUMPY, BY_TF_ENUM, DTYPES, DType, dtype_of

MAX_REPEATED_BYTES = 64 * 1024 * 1024
"""The largest tensor that may be made by repeating a value: a message of 20 bytes must not allocate gigabytes."""

_POINTER_BYTES = 8


def decode(tensor: Any, name: str) -> np.ndarray:
    """The array of a TensorProto message; read-only where it is a view of the message's bytes.

    `name` stands in the errors. Raises InvalidArgument for an element type that is not served, a shape that is unknown,
    negative or too large, and for values that are too many or out of their type's range.
    """
    dtype = BY_TF_ENUM.get(tensor.dtype)
    if dtype is None:
        received = DATA_TYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        served = ", ".join(known.tf_name for known in DTYPES)
        raise InvalidArgument(f'Tensor "{name}": expected a dtype out of {served}. Received: {received}.')
    declared = tensor.tensor_shape
    if declared.unknown_rank:
        raise InvalidArgument(f'Tensor "{name}": expected a known shape. Received: unknown rank.')
    shape, count = checked_shape([dim.size for dim in declared.dim], name)
    content = tensor.tensor_content
    if not content:
        return _fill(_typed_values(tensor, dtype, name), shape, count, name)
    if dtype.is_string:
        return _strings_of_content(content, shape, count, name)
    return view_bytes(content, dtype, shape, count, name, f"bytes of {dtype.name} in tensor_content")


def encode(array: np.ndarray) -> bytes:
    """The serialised TensorProto of an array, in typed fields. Raises InvalidArgument for a dtype outside the table."""
    dtype = dtype_of(array)
    header = _header(dtype.tf_enum, array.shape)
    field_tag = _AS_THEY_ARE.get(dtype.name)
    if field_tag is None:
        return header + _ENCODERS[dtype.name](array)
    data = array.tobytes()
    return b"".join((header, field_tag, varint(len(data)), data)) if data else header


def before_values(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes | None:
    """What `encode` writes in front of the bytes of an array of that type and shape; None where it writes anything else."""
    known = BY_NUMPY.get(dtype)
    field_tag = None if known is None else _AS_THEY_ARE.get(known.name)
    size = prod(shape)
    if known is None or field_tag is None or not size:
        return None
    return _header(known.tf_enum, shape) + field_tag + varint(size * known.itemsize)


# Reading.


def _typed_values(tensor: Any, dtype: DType, name: str) -> np.ndarray:
    """The values of the typed field that belongs to the dtype, as many as were sent, 1-D."""
    match dtype.name:
        case "float32":
            return packed_values(tensor, "float_val", 5, LITTLE_ENDIAN[dtype.name])
        case "float64":
            return packed_values(tensor, "double_val", 6, LITTLE_ENDIAN[dtype.name])
        case "string":
            return _object_array(tensor.string_val)
        case "float16":
            bits = np.fromiter(tensor.half_val, np.int32, len(tensor.half_val))
            return narrowed(bits, BY_NAME["uint16"], name, "16 bits").view(np.float16)
        case "int32":
            return np.fromiter(tensor.int_val, np.int32, len(tensor.int_val))
        case "int8" | "int16" | "uint8" | "uint16":
            wide = np.fromiter(tensor.int_val, np.int32, len(tensor.int_val))
            return narrowed(wide, dtype, name, dtype.name)
        case _:
            values = getattr(tensor, f"{dtype.name}_val")  # int64_val, uint32_val, uint64_val, bool_val
            return np.fromiter(values, dtype.numpy, len(values))


def _fill(values: np.ndarray, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """The values in the given shape: the last one repeated where there are fewer, the type's default where none are."""
    if values.size == count:
        return values.reshape(shape)
    if values.size > count:
        expect_count(name, "values", shape, count, values.size)
    is_string = values.dtype == object
    size = count * (_POINTER_BYTES if is_string else values.itemsize)
    if size > MAX_REPEATED_BYTES:
        raise InvalidArgument(
            f'Tensor "{name}": expected {count} values for shape {list(shape)}, or a tensor of at most '
            f"{MAX_REPEATED_BYTES} bytes to repeat the last value in. Received: {values.size} values."
        )
    default: Any = b"" if is_string else 0
    filled = np.full(count, values[-1] if values.size else default, values.dtype)
    filled[: values.size] = values
    return filled.reshape(shape)


def _object_array(values: Iterable[bytes]) -> np.ndarray:
    elements = list(values)
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _strings_of_content(content: bytes, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """TensorFlow's string list: the lengths of all elements as varints, then all their bytes."""
    expected = f'Tensor "{name}": expected {count} varint lengths and as many strings in tensor_content.'
    if count > len(content):  # every element takes a byte at least
        raise InvalidArgument(f"{expected} Received: {len(content)} bytes.")
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 28:  # a length is 32 bits: five groups of seven
                raise InvalidArgument(f"{expected} Received: a length that does not end.")
            group = content[position]
            position += 1
            length |= (group & 0x7F) << shift
            shift += 7
            if group < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise InvalidArgument(f"{expected} Received: {sum(lengths)} bytes announced, {len(content) - position} sent.")
    elements = []
    for length in lengths:
        elements.append(content[position : position + length])
        position += length
    return _object_array(elements).reshape(shape)


# Writing.


@lru_cache(maxsize=4096)
def _header(tf_enum: int, shape: tuple[int, ...]) -> bytes:
    """The serialised dtype and tensor_shape; cached, as answers repeat a few shapes."""
    size_tag = tag(1, wire_type=0)
    dims = b"".join(delimited(tag(2), size_tag + varint(size)) for size in shape)
    return tag(1, wire_type=0) + varint(tf_enum) + delimited(tag(2), dims)


_AS_THEY_ARE = {"float32": tag(5), "float64": tag(6), "bool": tag(11)}
"""Packed fields whose bytes are the array's own: a bool's varint is one byte, 0 or 1, and so is numpy's bool."""


def _integers(field: str) -> Callable[[np.ndarray], bytes]:
    """A writer of a packed field of varints; protobuf's C code encodes them."""

    def write(array: np.ndarray) -> bytes:
        values: bytes = TensorProto(**{field: array.ravel().tolist()}).SerializeToString()
        return values

    return write


def _halves(array: np.ndarray) -> bytes:
    return _integers("half_val")(np.ascontiguousarray(array).view(np.uint16))


def _strings(array: np.ndarray) -> bytes:
    elements = (value.encode() if isinstance(value, str) else value for value in array.ravel().tolist())
    values: bytes = TensorProto(string_val=elements).SerializeToString()
    return values


_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "int32": _integers("int_val"),
    "int16": _integers("int_val"),
    "int8": _integers("int_val"),
    "uint16": _integers("int_val"),
    "uint8": _integers("int_val"),
    "int64": _integers("int64_val"),
    "uint32": _integers("uint32_val"),
    "uint64": _integers("uint64_val"),
    "float16": _halves,
    "string": _strings,
}
