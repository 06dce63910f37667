"""Lists of numbers as JSON has them, read and written in bulk: what the short ways of REST live on.

Reading nested lists costs most in making the lists, and then in taking them apart again. The text is therefore split: what is
left without digits and spaces is its structure, which repeats from one request to the next and is understood once; what is
left without brackets is one flat list.
"""

import re
import struct
from functools import lru_cache
from math import prod
from secrets import token_hex

import numpy as np
import orjson

from services.protocols.json_arrays import finite_text, flatten, to_array
from services.tensors import DType

STAND_IN = [token_hex(16)]
"""A list that nobody else writes. Put in the place of a request's values, it shows what the text around them makes of it."""
STAND_IN_TEXT = orjson.dumps(STAND_IN)

_DIGITS = b"0123456789+-.eE"
_TO_ZERO = bytes.maketrans(_DIGITS, b"0" * len(_DIGITS))
_SPACES = b" \t\r\n"
_VALUE = re.compile(rb"(?<=[\[,])(?=[,\]])")
_LONGEST_STRUCTURE = 8192
_STRUCTURES = 256
_LONG_PLACES = 1024
_FLOATS = {"float32": "f", "float64": "d"}


def read_numbers(text: bytes) -> tuple[list[int | float], tuple[int, ...]] | None:
    """The numbers of a JSON list, regularly nested or flat, in row-major order, and their shape. `text` begins with "[".

    None for anything else, also for a list of nothing: then what is wrong, if anything, is for the general reader to say.
    """
    if b'"' in text or b"l" in text or b"u" in text:  # text, null and false, true
        return None
    shape: tuple[int, ...] | None = ()
    if text.find(b"[", 1) >= 0:
        places = text.translate(_TO_ZERO, _SPACES)
        if _number_beside_list(places):  # which the two halves of the text would not show
            return None
        structure = places.translate(None, b"0")
        shape = _shape_of(structure) if len(structure) <= _LONGEST_STRUCTURE else None
        if shape is None:
            return None
        text = b"[%b]" % text.translate(None, b"[]")
    try:
        numbers = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    shape = shape or (len(numbers),)
    return (numbers, shape) if numbers and len(numbers) == prod(shape) else None


def number_bytes(numbers: list[int | float], dtype: DType) -> bytes | None:
    """The numbers as elements of a type, row-major and native; None where one does not fit. See `json_arrays.to_array`."""
    code = _FLOATS.get(dtype.name)
    if code is None:
        values = to_array(numbers, (len(numbers),), dtype)
        return None if values is None else values.tobytes()
    try:
        return _packer(code, len(numbers)).pack(*numbers)
    except struct.error:
        return None


def row_texts(values: np.ndarray) -> list[bytes] | None:
    """The values of each row, row-major and flat, as they stand between the brackets of a JSON list.

    None for what is no table of numbers, and where a value is not finite.
    """
    if values.dtype.kind not in "iuf" or values.dtype == np.float16 or values.ndim == 0 or not values.size:
        return None
    text = finite_text(values.reshape(len(values), -1))
    return None if text is None else text[2:-2].split(b"],[")


@lru_cache(256)
def _packer(code: str, count: int) -> struct.Struct:
    """Three times as quick as an `array`, and as that one takes a number beyond a float's range for an infinity."""
    return struct.Struct(f"{count}{code}")


def _number_beside_list(places: bytes) -> bool:
    """Whether there is a "0[" or a "]0". In long texts numpy looks at all places at once, in an eighth of the time."""
    if len(places) < _LONG_PLACES:
        return b"0[" in places or b"]0" in places
    characters = np.frombuffer(places, np.uint8)
    numbers = characters == ord("0")
    before, behind = numbers[:-1] & (characters[1:] == ord("[")), numbers[1:] & (characters[:-1] == ord("]"))
    return bool(before.any() or behind.any())


@lru_cache(_STRUCTURES)
def _shape_of(structure: bytes) -> tuple[int, ...] | None:
    """The shape of lists from their brackets and commas alone; None where they are ragged or none."""
    try:
        lists = orjson.loads(_VALUE.sub(b"0", structure))
    except orjson.JSONDecodeError:
        return None
    flat = flatten(lists)
    return None if flat is None else flat[1]
