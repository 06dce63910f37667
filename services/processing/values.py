"""One cell of a table or a series as a number: the rule that every processor shares.

Numbers and booleans (as 0 and 1) count, and so does a text that is a plain decimal number with a point, as a CSV file
holds it. Thousands separators, decimal commas, hexadecimal, `nan` and `inf` are refused: what they mean is a guess.
"""

import re
from typing import Any

import numpy as np
import orjson

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or a text without a visible character."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def number(value: Any) -> float:
    """A cell that is not missing, as a float. Raises ValueError with what was expected."""
    if isinstance(value, str):
        text = value.strip()
        if not _DECIMAL.fullmatch(text):
            raise ValueError("expected a number")
        value = text
    elif not isinstance(value, int | float | np.integer | np.floating | np.bool_):
        raise ValueError("expected a number")
    try:
        result = float(value)
    except OverflowError:
        result = np.inf
    if not abs(result) <= _LARGEST:
        raise ValueError("expected a finite number within float32's range")
    return result


def shortest(values: np.ndarray) -> list[Any]:
    """Nested lists of Python numbers; None for NaN and infinities.

    orjson writes a float32 by its own shortest digits, which tolist() would widen to float64's: 0.1, not 0.10000000149.
    """
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    plain: list[Any] = orjson.loads(orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY))
    return plain


def outside_float32(values: np.ndarray) -> np.ndarray:
    """Which elements of a float64 array are infinite or too large for float32. NaN (missing) is not among them."""
    return np.asarray(np.abs(values) > _LARGEST)


def shown(value: Any) -> str:
    """A value as an error message shows it: its repr, cut to a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
