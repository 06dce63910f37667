"""Inputs for a load test: made up from a model's signature, or read from a file.

Made-up values: floats uniform in [0, 1), integers in [0, 10), unsigned bytes in [0, 256), words for strings. They are good
for measuring; a model that refuses them (an id past its table, say) is measured with a file.
"""

import zipfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from services.errors import DataError, InvalidArgument
from services.telemetry.request_log.reading import read
from services.tensors import BY_NAME, DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec, dtype_of

_WORDS = np.array([b"free", b"entry", b"prize", b"friday", b"meeting", b"price", b"draw", b"tomorrow"], object)
_WORDS_PER_STRING = 8
_INTEGERS_BELOW = 10


def generate(
    signature: Signature,
    rng: np.random.Generator,
    *,
    rows: int = 1,
    variable_axis: int = 16,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """One request's tensors. A first axis that counts rows gets `rows`, every other free axis `variable_axis`; `shapes`
    gives an input's whole shape instead.

    Raises InvalidArgument for a shape of an unknown input, or one that does not fit the signature.
    """
    shapes = shapes or {}
    known = {spec.name for spec in signature.inputs}
    for name in shapes:
        if name not in known:
            raise InvalidArgument(f"Expected a shape of one of {', '.join(sorted(known))}. Received: {name}.")
    return {
        spec.name: _values(spec, shapes.get(spec.name) or _shape(spec, rows, variable_axis), rng)
        for spec in signature.inputs
    }


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an NPZ file by name; strings as bytes. Raises DataError; pickled arrays are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        AttributeError,
    ) as error:  # .npy and .npz differ in what they raise
        raise DataError(f"{path.name}: expected an NPZ file of tensors. Received: {error}.") from error
    if not arrays:
        raise DataError(f"{path.name}: expected at least one tensor. Received: none.")
    for name, array in arrays.items():
        if dtype_of(array).is_string:
            arrays[name] = np.char.encode(array).astype(object) if array.dtype.kind == "U" else array.astype(object)
    return arrays


def read_logged(path: Path, model: str, signature: str, most: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the first `most` requests in a request log that this model answered. Raises DataError where it has none."""
    answered = (
        logged.inputs
        for logged in read(path)
        if logged.fields["code"] == "OK"
        and (logged.fields["model"], logged.fields["signature"]) == (model, signature or DEFAULT_SIGNATURE)
    )
    found = list(islice((inputs for inputs in answered if inputs is not None), most))
    if not found:
        raise DataError(
            f"{path.name}: expected requests that {model} answered, with their payloads. Received: none; "
            "they are logged with CORNET_REQUEST_LOG_PAYLOADS=true."
        )
    return found


def rows_of(inputs: Mapping[str, np.ndarray]) -> int:
    """Rows in a request: the length of its first tensor's first axis, 1 for a scalar."""
    first = next(iter(inputs.values()))
    return int(first.shape[0]) if first.ndim else 1


def _shape(spec: TensorSpec, rows: int, variable_axis: int) -> tuple[int, ...]:
    if spec.shape is None:
        return (rows,)
    free = (rows if axis == 0 else variable_axis for axis in range(len(spec.shape)))
    return tuple(length if size == DYNAMIC else size for size, length in zip(spec.shape, free, strict=True))


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if not spec.accepts(shape):
        raise InvalidArgument(f"Expected a shape that fits {spec}. Received: {list(shape)}.")
    kind = spec.dtype.numpy.kind
    if kind == "f":
        return rng.random(shape).astype(spec.dtype.numpy)
    if spec.dtype == BY_NAME["string"]:
        picks = rng.integers(len(_WORDS), size=(int(np.prod(shape)), _WORDS_PER_STRING))
        strings = np.empty(len(picks), object)
        strings[:] = [b" ".join(_WORDS[pick]) for pick in picks]
        return strings.reshape(shape)
    above = {"b": 2, "u": 256 if spec.dtype.itemsize == 1 else _INTEGERS_BELOW}.get(kind, _INTEGERS_BELOW)
    return rng.integers(above, size=shape).astype(spec.dtype.numpy)
