"""Checks that both dialects share: on a declared shape before anything is allocated for it, and on the values sent for it."""

from collections.abc import Sequence
from math import prod

import numpy as np

from services.errors import InvalidArgument
from services.tensors import DTYPES, DType

MAX_RANK = 64
"""numpy's own limit."""
_MAX_ELEMENTS = 2**48
"""Bounds the product of an empty tensor's other axes, which no data bounds."""

LITTLE_ENDIAN = {dtype.name: dtype.numpy.newbyteorder("<") for dtype in DTYPES}
"""The byte order of both dialects' raw bytes, by element type."""


def checked_shape(dims: Sequence[int], name: str) -> tuple[tuple[int, ...], int]:
    """The shape as a tuple, and its number of elements. `name` stands in the error. Raises InvalidArgument."""
    shape = tuple(dims)
    if len(shape) > MAX_RANK:
        raise InvalidArgument(f'Tensor "{name}": expected at most {MAX_RANK} axes. Received: {len(shape)}.')
    if shape and min(shape) < 0:
        raise InvalidArgument(f'Tensor "{name}": expected no negative axis. Received: shape {_shown(shape)}.')
    count = prod(shape)
    if (count or prod(dim for dim in shape if dim)) > _MAX_ELEMENTS:
        raise InvalidArgument(f'Tensor "{name}": expected a shape that fits in memory. Received: {_shown(shape)}.')
    return shape, count


def expect_count(name: str, what: str, shape: tuple[int, ...], expected: int, received: int) -> None:
    """Raise InvalidArgument unless as many `what` (values, bytes) came as the shape asks for."""
    if expected != received:
        raise InvalidArgument(
            f'Tensor "{name}": expected {expected} {what} for shape {_shown(shape)}. Received: {received}.'
        )


def view_bytes(
    data: bytes | memoryview, dtype: DType, shape: tuple[int, ...], count: int, name: str, what: str
) -> np.ndarray:
    """Row-major little-endian bytes of any type but strings as an array: a read-only view, but for bool and unaligned bytes.

    `count` is the shape's product, `what` names the bytes in the error. Raises InvalidArgument where they are not exactly
    those of the shape.
    """
    expect_count(name, what, shape, count * dtype.itemsize, len(data))
    if dtype.name == "bool":  # any byte but 0 is true; numpy's bool must hold 0 or 1
        return np.ndarray(shape, np.uint8, data).astype(np.bool_)
    return aligned(np.ndarray(shape, LITTLE_ENDIAN[dtype.name], data))


def aligned(array: np.ndarray) -> np.ndarray:
    """The array, copied where it starts in the middle of an element: a model runtime may load whole vectors."""
    return array if array.flags.aligned else array.copy()


def narrowed(wide: np.ndarray, dtype: DType, name: str, label: str) -> np.ndarray:
    """Integers that travelled in a wider field as the type they are declared as; `label` is that type's name in the error.

    Raises InvalidArgument for a value out of its range.
    """
    narrow = wide.astype(dtype.numpy)
    if not np.array_equal(narrow, wide):
        wrong = wide[narrow != wide][0]
        raise InvalidArgument(f'Tensor "{name}": expected values of {label}. Received: {wrong}.')
    return narrow


def _shown(shape: tuple[int, ...]) -> str:
    return str(list(shape))
