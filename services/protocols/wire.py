"""Protobuf's wire format, as far as the hot path writes and reads it by hand.

Building an answer through message objects costs several times what the bytes themselves cost, and a packed float field
read element by element costs 40 ns per value where it is one copy. Everything else goes through the message classes.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from services.protocols.shapes import aligned

_LENGTH_DELIMITED = 2
_FEW_VALUES = 24
"""Up to here reading the values one by one is quicker than serialising the field to get at its bytes."""

_COPIED_BYTES = 64 * 1024
"""Up to here slices of a copy are quicker than slices of a view."""


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def tag(number: int, wire_type: int = _LENGTH_DELIMITED) -> bytes:
    """What stands in front of a field's value."""
    return varint(number << 3 | wire_type)


def delimited(field_tag: bytes, payload: bytes) -> bytes:
    """A bytes, string, message or packed field."""
    return field_tag + varint(len(payload)) + payload


@lru_cache(maxsize=4096)
def text(field_tag: bytes, value: str) -> bytes:
    """A string field; nothing for the empty string, as proto3 writes it. Cached: names repeat in every answer."""
    return delimited(field_tag, value.encode()) if value else b""


def packed_values(message: Any, field: str, number: int, dtype: np.dtype[Any]) -> np.ndarray:
    """A repeated float or double field as a 1-D array of `dtype` (little-endian float32 or float64), read-only or not.

    A message writes its fields in the order of their numbers, so a typed field that is the last one set ends the
    serialised message, and its values are the tail of it. Where another field follows, they are read one by one.
    """
    values = getattr(message, field)
    count = len(values)
    if count > _FEW_VALUES:
        data: bytes = message.SerializeToString()
        size = count * dtype.itemsize
        head = tag(number) + varint(size)
        start = len(data) - size
        if data[start - len(head) : start] == head:
            return aligned(np.frombuffer(data, dtype, count, start))
    return np.fromiter(values, dtype, count)


def around_rows(texts: Sequence[bytes], arrays: Sequence[np.ndarray], rows: int, firsts: Iterable[int]) -> list[bytes]:
    """Messages that differ in the rows of arrays alone, one for each of `firsts`: rows `first` to `first + rows`.

    A message is the first of `texts`, the first array's bytes, the next text and so on; there is one text more than arrays.
    """
    columns = [_cut(array, rows, firsts) for array in arrays]
    before, after = texts[0], texts[-1]
    if len(columns) == 1:
        return [before + values + after for values in columns[0]]
    between = texts[1:]
    return [
        before + b"".join(chain.from_iterable(zip(row, between, strict=True))) for row in zip(*columns, strict=True)
    ]


def _cut(array: np.ndarray, rows: int, firsts: Iterable[int]) -> list[bytes | memoryview]:
    """The bytes of rows of an array, row-major, for each first row."""
    row_bytes = array.nbytes // len(array)
    size = rows * row_bytes
    if array.nbytes <= _COPIED_BYTES:
        data: bytes | memoryview = array.tobytes()
    else:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return [data[start : start + size] for start in [first * row_bytes for first in firsts]]
