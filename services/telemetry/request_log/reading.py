"""A request log read back: records, and their tensors as arrays.

for logged in read(Path("/var/log/cornet")):
    if logged.inputs is not None:
        answer = model.predict(logged.inputs["features"])
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from services.errors import DataError
from services.telemetry.request_log.folder import TEMPORARY
from services.telemetry.request_log.records import LENGTH_BYTES
from services.tensors import BY_OIP

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Logged:
    """One record. `fields` are its columns by name; `inputs` and `outputs` None where not all of their values were logged."""

    fields: Mapping[str, Any]
    inputs: Arrays | None
    outputs: Arrays | None


def read(path: Path) -> Iterator[Logged]:
    """The records of a file, or of a folder's finished files from the oldest on.

    Raises DataError for what is no request log, and where Parquet is to be read without pyarrow.
    """
    if path.is_dir():
        for file in sorted((*path.glob("requests-*.jsonl"), *path.glob("requests-*.parquet"))):
            yield from read(file)
        return
    rows = _parquet(path) if path.suffix == ".parquet" else _lines(path)
    try:
        for row in rows:
            yield Logged(
                {name: value for name, value in row.items() if name not in ("inputs", "outputs")},
                _arrays(row.get("inputs")),
                _arrays(row.get("outputs")),
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name}: expected a request log. Received: {type(error).__name__}, {error}.") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") or path.suffix != TEMPORARY:  # the last line may be in the middle of being written
                yield orjson.loads(line)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path.name}: expected pyarrow, which reads Parquet. Received: none; install it.") from None
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _arrays(tensors: Sequence[Mapping[str, Any]] | None) -> Arrays | None:
    if not tensors or any(_is_cut(tensor) for tensor in tensors):
        return None
    return {tensor["name"]: _array(tensor) for tensor in tensors}


def _is_cut(tensor: Mapping[str, Any]) -> bool:
    return all(tensor.get(member) is None for member in ("data", "base64", "raw"))


def _array(tensor: Mapping[str, Any]) -> np.ndarray:
    dtype, shape, data = BY_OIP[tensor["datatype"]], tensor["shape"], tensor.get("data")
    if data is not None:
        values = [one.encode() for one in data] if dtype.is_string else data
    else:
        raw = tensor["raw"] if "raw" in tensor else b64decode(tensor["base64"])
        values = list(_strings(raw)) if dtype.is_string else np.frombuffer(raw, dtype.numpy)
    array: np.ndarray = np.array(values, dtype.numpy)
    return array.reshape(shape)


def _strings(raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        end = start + LENGTH_BYTES + int.from_bytes(raw[start : start + LENGTH_BYTES], "little")
        yield raw[start + LENGTH_BYTES : end]
        start = end
