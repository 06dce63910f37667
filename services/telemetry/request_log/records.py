"""One request as the log has it: taken from its exchange on the loop's thread, written out in another.

A tensor's values are copied when the record is made: they may be views of a message or a batch many times their size, which
a record that waits must not keep.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from time import perf_counter, time
from typing import Any

import numpy as np

from services.errors import InvalidArgument
from services.telemetry.exchange import Exchange
from services.telemetry.tables import CODE_NAMES, PHASES
from services.tensors import BY_OIP, DEFAULT_SIGNATURE, dtype_of

LISTED_VALUES = 1024
"""A tensor of more values is written as the bytes they are, in base64."""

LENGTH_BYTES = 4
"""Before each string in the bytes of a tensor of strings: its length, little-endian, as in Open Inference Protocol's."""

_LONGEST_NAME = 256
_LONGEST_CONTEXT = 128
_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Tensor:
    """`datatype` is Open Inference Protocol's name. `values` are its bytes in C order, or its strings; None where cut."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: bytes | list[bytes] | None

    def raw(self) -> bytes | None:
        """The values as bytes: little-endian; a string has its length in front."""
        if not isinstance(self.values, list):
            return self.values
        return b"".join(len(value).to_bytes(LENGTH_BYTES, "little") + value for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """Name, datatype, shape, and one of `data` (as a REST request has it), `base64` (`raw`) and `cut`."""
        described: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": self.shape}
        raw = self.raw()
        if raw is None:
            return {**described, "cut": True}
        data = self._listed()
        return {**described, "base64": b64encode(raw).decode()} if data is None else {**described, "data": data}

    def _listed(self) -> Any:
        """The values as JSON has them; None where they are many, or JSON has none such (NaN, bytes that are not UTF-8)."""
        if isinstance(self.values, list):
            if len(self.values) > LISTED_VALUES:
                return None
            try:
                return [value.decode() for value in self.values]
            except UnicodeDecodeError:
                return None
        dtype = BY_OIP[self.datatype].numpy
        values: np.ndarray = np.frombuffer(self.values or b"", dtype)
        if values.size > LISTED_VALUES or (dtype.kind == "f" and not np.isfinite(values).all()):
            return None
        return values


@dataclass(slots=True)
class Record:
    """`at` is Unix time of the arrival; `phases` seconds of decode, queue, compute and encode, None where there were none.

    `rows` is the length of the first input's first axis. `inputs` and `outputs` are empty without payloads.
    """

    at: float
    request_id: str
    protocol: str
    method: str
    model: str
    version: int | None
    signature: str | None
    code: int
    rows: int | None
    batch_rows: int | None
    received_bytes: int
    sent_bytes: int
    phases: tuple[float, float, float, float] | None
    total_s: float
    traceparent: str | None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    size: int = _OVERHEAD_BYTES
    """About how many bytes it holds in memory."""

    @property
    def cut(self) -> bool:
        """Whether a tensor's values were left out."""
        return any(tensor.values is None for tensor in (*self.inputs, *self.outputs))

    def columns(self) -> dict[str, Any]:
        """All but time and payloads, by the names the log gives them; times in milliseconds."""
        phases = self.phases or (None, None, None, None)
        return {
            "request_id": self.request_id,
            "protocol": self.protocol,
            "method": self.method,
            "model": self.model,
            "version": self.version,
            "signature": self.signature,
            "code": CODE_NAMES[self.code],
            "rows": self.rows,
            "batch_rows": self.batch_rows,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            **{f"{name}_ms": _milliseconds(seconds) for name, seconds in zip(PHASES, phases, strict=True)},
            "total_ms": _milliseconds(self.total_s),
            "traceparent": self.traceparent,
        }

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def to_json(self, *, payloads: bool) -> dict[str, Any]:
        """What a line of the log says."""
        written = self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"time": written, **self.columns()}
        if payloads:
            document["payload_cut"] = self.cut
            document["inputs"] = [tensor.to_json() for tensor in self.inputs]
            document["outputs"] = [tensor.to_json() for tensor in self.outputs]
        return document


def record(exchange: Exchange, payload_bytes: int | None) -> Record:
    """The record of an exchange that has ended, with at most `payload_bytes` of tensors; None for none."""
    request, response = exchange.request, exchange.response
    rows: int | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    left = payload_bytes or 0
    if request is not None:
        first = next(iter(request.inputs.values()), None)
        rows = None if first is None else first.shape[0] if first.ndim else 1
    if payload_bytes is not None:
        inputs, left = _tensors({} if request is None else request.inputs, payload_bytes)
        outputs, left = _tensors({} if response is None else response.outputs, left)
    traceparent = exchange.header("traceparent")
    return Record(
        at=time() - (perf_counter() - exchange.started_at),
        request_id=exchange.request_id,
        protocol=exchange.protocol,
        method=exchange.operation,
        model=exchange.model[:_LONGEST_NAME],
        version=exchange.version,
        signature=None if request is None else (request.signature or DEFAULT_SIGNATURE)[:_LONGEST_NAME],
        code=exchange.code,
        rows=rows,
        batch_rows=None if response is None else response.batch_rows,
        received_bytes=exchange.received_bytes,
        sent_bytes=exchange.sent_bytes,
        phases=exchange.phases,
        total_s=exchange.ended_at - exchange.started_at,
        traceparent=traceparent if traceparent is not None and len(traceparent) <= _LONGEST_CONTEXT else None,
        inputs=inputs,
        outputs=outputs,
        size=_OVERHEAD_BYTES + (payload_bytes or 0) - left,
    )


def _tensors(arrays: Mapping[str, np.ndarray], room: int) -> tuple[tuple[Tensor, ...], int]:
    """The arrays as tensors, in order, each with its values while there is room; and the bytes left of it."""
    tensors = []
    for name, array in arrays.items():
        try:
            dtype = dtype_of(array)
        except InvalidArgument:  # what made the request fail
            tensors.append(Tensor(name[:_LONGEST_NAME], array.dtype.name, array.shape, None))
            continue
        values: bytes | list[bytes] | None = None
        size = array.nbytes
        if size <= room and dtype.is_string:
            values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
            size = sum(LENGTH_BYTES + len(value) for value in values)
        elif size <= room:
            values = array.tobytes()
        if size > room:
            values = None
        else:
            room -= size
        tensors.append(Tensor(name[:_LONGEST_NAME], dtype.oip, array.shape, values))
    return tuple(tensors), room


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or isnan(seconds) else round(seconds * 1e3, 3)
