"""Checks on a tensor's declared shape, before anything is allocated for it."""

from collections.abc import Sequence
from math import prod

from services.errors import InvalidArgument

MAX_RANK = 64
"""numpy's own limit."""
_MAX_ELEMENTS = 2**48
"""Bounds the product of an empty tensor's other axes, which no data bounds."""


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


def _shown(shape: tuple[int, ...]) -> str:
    return str(list(shape))
