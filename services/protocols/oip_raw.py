"""Raw tensor bytes of the Open Inference Protocol <-> numpy: gRPC's raw contents and REST's binary tensors.

Row-major, little-endian, BOOL as one byte, BYTES elements each behind their length as a 4-byte unsigned integer.

Source: the Open Inference Protocol's "Tensor Data" and its binary tensor data extension.
"""

from struct import Struct

import numpy as np

from services.errors import InvalidArgument
from services.protocols.shapes import expect_count, view_bytes
from services.tensors import BY_OIP, DType, dtype_of

_LENGTH = Struct("<I")


def datatype_of(datatype: str, name: str) -> DType:
    """The table's entry for a protocol datatype; `name` stands in the error. Raises InvalidArgument."""
    try:
        return BY_OIP[datatype]
    except KeyError:
        raise InvalidArgument(
            f'Tensor "{name}": expected a datatype out of {", ".join(BY_OIP)}. Received: {datatype!r:.60}.'
        ) from None


def decode_raw(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """The array that raw bytes hold: a read-only view of them, BOOL and BYTES apart. `count` is the shape's product.

    Raises InvalidArgument where the bytes are not exactly those of the shape.
    """
    if dtype.is_string:
        return _decode_strings(bytes(data), shape, count, name)
    return view_bytes(data, dtype, shape, count, name, f"bytes of {dtype.oip}")


def encode_raw(array: np.ndarray) -> bytes:
    """The raw bytes of an array. Raises InvalidArgument for a dtype outside the table."""
    if not dtype_of(array).is_string:
        return array.tobytes()
    parts = []
    for value in array.ravel().tolist():
        element = value.encode() if isinstance(value, str) else value
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def _decode_strings(data: bytes, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, position)[0] if start <= len(data) else start
        if end > len(data):
            raise InvalidArgument(
                f'Tensor "{name}": expected a 4-byte length before each BYTES element and that many bytes after it. '
                f"Received: element {len(elements)} ends {end - len(data)} bytes after the data."
            )
        elements.append(data[start:end])
        position = end
    expect_count(name, "BYTES elements", shape, count, len(elements))
    array = np.empty(count, object)
    array[:] = elements
    return array.reshape(shape)
