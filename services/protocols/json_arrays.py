"""JSON values to arrays and arrays to JSON text, exact in every element type.

Numpy's own `np.array(nested_list)` guesses: it reads "1.5" as a number, true as 1 and null as NaN, and merges int64 with
uint64 into floats. Here the nesting is taken apart level by level in C (`chain`, `map`), the types of all leaves are looked
at, and only leaves of the right type reach numpy.
"""

import binascii
from array import array
from itertools import chain
from math import isnan
from typing import Any

import numpy as np
import orjson

from services.errors import InvalidArgument
from services.tensors import DType

MAX_RANK = 32
"""Deeper nesting is refused; numpy's own limit is 64, and no model comes near."""

_NUMBERS = frozenset((int, float))
_INTEGERS = frozenset((int,))
_BOOLS = frozenset((bool,))
_STRINGS = frozenset((str, dict))
_LISTS = frozenset((list,))

_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


def json_type(value: Any) -> str:
    """RapidJSON's name of a value's type, as it stands in TensorFlow Serving's messages."""
    return str(value) if type(value) is bool else _TYPE_NAMES[type(value)]


def flatten(value: Any) -> tuple[list[Any], tuple[int, ...]] | None:
    """The leaves of regular nested lists in row-major order, and the shape; None where the nesting is ragged.

    Anything that is no list is a leaf; a lone leaf has the shape ().
    """
    if type(value) is not list:
        return [value], ()
    shape = [len(value)]
    while True:
        types = set(map(type, value))
        if list not in types:
            return value, tuple(shape)
        if types != _LISTS or len(shape) == MAX_RANK:
            return None
        lengths = set(map(len, value))
        if len(lengths) != 1:
            return None
        shape.append(lengths.pop())
        value = list(chain.from_iterable(value))


def to_array(leaves: list[Any], shape: tuple[int, ...], dtype: DType) -> np.ndarray | None:
    """Leaves as an array of that type and shape; None where a leaf is of another type or does not fit.

    Integers are taken for floats, never the reverse; booleans are no numbers; integers must be in range. A finite number
    over a float's range becomes an infinity, as in TensorFlow Serving. Strings become their UTF-8 bytes, and so do
    objects `{"b64": "..."}`. The number of leaves must be that of `shape`.
    """
    types = set(map(type, leaves))
    kind = dtype.numpy.kind
    if kind == "O":
        return _to_strings(leaves, shape) if types <= _STRINGS else None
    allowed = _NUMBERS if kind == "f" else _BOOLS if kind == "b" else _INTEGERS
    if not types <= allowed:
        return None
    try:
        if dtype.name == "float32":  # `array` is the quickest way in, and rounds to infinity without a warning
            return np.frombuffer(array("f", leaves), np.float32).reshape(shape)
        with np.errstate(over="ignore"):
            return np.array(leaves, dtype.numpy).reshape(shape)
    except OverflowError:
        return None


def decode_base64(value: Any) -> bytes | None:
    """The bytes of `{"b64": "<base64>"}`, padded or not; None for anything else."""
    if type(value) is not dict or len(value) != 1 or type(value.get("b64")) is not str:
        return None
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def is_base64_object(value: Any) -> bool:
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def number_text(values: np.ndarray) -> bytes:
    """A numeric array of any shape as JSON text, nested lists, row-major; NaN and infinities as their tokens.

    Floats carry a decimal point or an exponent and the fewest digits that read back as the same value of their type.
    """
    if values.ndim == 0:
        return number_text(values.reshape(1))[1:-1]
    return finite_text(values) or _with_tokens(_dump(values), values)


def finite_text(values: np.ndarray) -> bytes | None:
    """A numeric array of at least one axis as standard JSON; None where an element is NaN or infinite."""
    text = _dump(values)
    return None if values.dtype.kind == "f" and b"null" in text else text


def is_finite(values: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; true for types that have neither."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _to_strings(leaves: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    strings = np.empty(len(leaves), object)
    for index, leaf in enumerate(leaves):
        strings[index] = leaf.encode() if type(leaf) is str else decode_base64(leaf)
        if strings[index] is None:
            return None
    return strings.reshape(shape)


def _dump(values: np.ndarray) -> bytes:
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)


def _with_tokens(text: bytes, values: np.ndarray) -> bytes:
    """Put the tokens where orjson wrote null for what is not finite, in the same order."""
    strays = values[~np.isfinite(values)].tolist()
    tokens = [b"NaN" if isnan(stray) else b"Infinity" if stray > 0 else b"-Infinity" for stray in strays]
    parts = text.split(b"null")
    return b"".join(chain.from_iterable(zip(parts, [*tokens, b""], strict=True)))


def string_values(values: np.ndarray, where: str) -> list[str]:
    """The elements of a string array in row-major order as text. Raises InvalidArgument, naming `where`, for no UTF-8."""
    try:
        return [_text(item) for item in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{where}: expected UTF-8 text, as JSON can carry. Received: bytes that are none, at position {error.start} "
            f"of an element."
        ) from None


def _text(item: bytes | str) -> str:
    return item if type(item) is str else bytes(item).decode()  # type: ignore[arg-type] # bytes or numpy.bytes_
