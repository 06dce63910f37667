"""Why JSON values are no tensor, in TensorFlow Serving's words.

Only called once the quick way has failed: it walks the values one by one, as TensorFlow Serving does, until it meets what
is wrong with them. What is right is skipped in chunks by the quick way, so that one wrong value at the end of a large body
does not hold up the event loop.

Source: tensorflow_serving/util/json_tensor.h.
"""

from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

from services.errors import InvalidArgument
from services.protocols.json_arrays import MAX_RANK, decode_base64, flatten, is_base64_object, json_type, to_array
from services.protocols.json_text import describe
from services.tensors import DType, TensorSpec

_CHUNK = 1024
_Shapes: TypeAlias = dict[str, tuple[int, tuple[int, ...]]]
"""Number of elements and shape of each input's first row."""


def is_record(value: Any) -> bool:
    """Whether a value is an object of named tensors: any object but `{"b64": "..."}`."""
    return type(value) is dict and not is_base64_object(value)


def explain_rows(rows: list[Any], specs: Mapping[str, TensorSpec]) -> NoReturn:
    """Raise InvalidArgument for the first row of `instances` that does not fit its input or the rows before it."""
    by_name = is_record(rows[0])
    first: _Shapes = {}
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        if not start or not _alike(chunk, specs, first, by_name=by_name):
            _check_rows(chunk, start, specs, first, by_name=by_name)
    raise InvalidArgument("Expected rows of one shape in 'instances'.")


def first_wrong(leaves: list[Any], dtype: DType) -> Any:
    """The first leaf that `to_array` would not take for that type; None where it takes all (or where it is null)."""
    for start in range(0, len(leaves), _CHUNK):
        chunk = leaves[start : start + _CHUNK]
        if to_array(chunk, (len(chunk),), dtype) is None:
            return next(leaf for leaf in chunk if to_array([leaf], (), dtype) is None)
    return None


def _check_rows(rows: list[Any], start: int, specs: Mapping[str, TensorSpec], first: _Shapes, *, by_name: bool) -> None:
    for index, row in enumerate(rows, start):
        if by_name != is_record(row):
            expected, received = ("object", "list") if by_name else ("value/list", "object")
            raise InvalidArgument(f"Expecting {expected} but got {received} at item {index} of input list")
        named = row if by_name else {next(iter(specs)): row}
        for name, value in named.items():
            where = f" key: {name}" if by_name else ""
            try:
                _check_row(value, name, specs, first)
            except InvalidArgument as error:
                raise InvalidArgument(
                    f"Failed to process element: {index}{where} of 'instances' list. Error: INVALID_ARGUMENT: {error}"
                ) from None
        if named.keys() != specs.keys():
            raise InvalidArgument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {describe(row)} keys must be equal "
                f"to: {','.join(sorted(specs))}"
            )


def explain_tensor(value: Any, spec: TensorSpec) -> NoReturn:
    """Raise InvalidArgument for what is wrong with one whole tensor of `inputs`."""
    try:
        _check(value, spec.dtype)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error} (input {_shown(spec)})") from None
    raise InvalidArgument(f"Expected regular nested lists for input {_shown(spec)}.")


def _alike(rows: list[Any], specs: Mapping[str, TensorSpec], first: _Shapes, *, by_name: bool) -> bool:
    """Whether all of these rows fit their inputs and are shaped as the first row."""
    if by_name and not all(type(row) is dict and row.keys() == specs.keys() for row in rows):
        return False
    for name, spec in specs.items():
        values = [row[name] for row in rows] if by_name else rows
        if not _fits(values, (len(rows), *first[name][1]), spec.dtype):
            return False
    return True


def _fits(value: Any, shape: tuple[int, ...], dtype: DType) -> bool:
    flat = flatten(value)
    return flat is not None and flat[1] == shape and to_array(*flat, dtype) is not None


def _check_row(value: Any, name: str, specs: Mapping[str, TensorSpec], first: _Shapes) -> None:
    if name not in specs:
        raise InvalidArgument(f"JSON object: does not have named input: {name}. Expected: {', '.join(specs)}.")
    spec = specs[name]
    try:
        size, shape = _check(value, spec.dtype)
        want_size, want_shape = first.setdefault(name, (size, shape))
        if size != want_size:
            raise InvalidArgument(f"Expecting tensor size: {want_size} but got: {size}")
        if shape != want_shape:
            raise InvalidArgument(f"Expecting shape {_listed(want_shape)} but got: {_listed(shape)}")
    except InvalidArgument as error:
        raise InvalidArgument(f"{error} (input {_shown(spec)})") from None


def _check(value: Any, dtype: DType) -> tuple[int, tuple[int, ...]]:
    """The number of elements and the shape of one value. Raises InvalidArgument for the first element that is wrong."""
    flat = flatten(value)
    if flat is not None and to_array(*flat, dtype) is not None:
        return len(flat[0]), flat[1]
    shape: list[int] = []
    item = value
    while type(item) is list:
        shape.append(len(item))
        if len(shape) > MAX_RANK:
            raise InvalidArgument(f"Expecting at most {MAX_RANK} levels of lists. Received: {describe(value)}.")
        if not item:
            break
        item = item[0]
    _walk(value, 0, tuple(shape), dtype)
    raise InvalidArgument(f"JSON Value: {describe(value)} is not of expected type: {_type_name(dtype)}")


def _walk(value: Any, level: int, shape: tuple[int, ...], dtype: DType) -> None:
    if type(value) is not list:
        if level != len(shape):
            raise InvalidArgument(
                f"JSON Value: {describe(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}"
            )
        _check_leaf(value, dtype)
        return
    if level >= len(shape):
        raise InvalidArgument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise InvalidArgument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    below = shape[level + 1 :]
    for start in range(0, len(value), _CHUNK):
        chunk = value[start : start + _CHUNK]
        if not _fits(chunk, (len(chunk), *below), dtype):
            for item in chunk:
                _walk(item, level + 1, shape, dtype)


def _check_leaf(value: Any, dtype: DType) -> None:
    if to_array([value], (), dtype) is not None:
        return
    if dtype.is_string and type(value) is dict:
        if is_base64_object(value) and decode_base64(value) is None:
            raise InvalidArgument(f"Unable to base64 decode. JSON Value: {describe(value)}")
        raise InvalidArgument(f"JSON Value: {describe(value)} not formatted correctly for base64 data")
    raise InvalidArgument(
        f"JSON Value: {describe(value)} Type: {json_type(value)} is not of expected type: {_type_name(dtype)}"
    )


def _type_name(dtype: DType) -> str:
    return dtype.tf_name.removeprefix("DT_").lower()


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _shown(spec: TensorSpec) -> str:
    return f'"{spec.name}": {spec.dtype.name} {"of any shape" if spec.shape is None else list(spec.shape)}'
