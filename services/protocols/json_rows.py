"""The rows of a whole run's outputs as JSON text, written at once and cut apart."""

import numpy as np

from services.protocols.json_arrays import finite_text

_NUMBERS = "iuf"


def row_texts(array: np.ndarray) -> list[bytes] | None:
    """The values of each row, row-major and flat, as they stand between the brackets of a JSON list.

    None for what is no table of numbers, and where a value is not finite.
    """
    if array.dtype.kind not in _NUMBERS or array.dtype == np.float16 or array.ndim == 0 or not array.size:
        return None
    text = finite_text(array.reshape(len(array), -1))
    return None if text is None else text[2:-2].split(b"],[")
