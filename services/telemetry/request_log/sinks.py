"""One file of the log while it is written: JSON lines, or Parquet."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import orjson

from services.telemetry.request_log.records import Record, Tensor

_ROW_GROUP_RECORDS = 2048
_ROW_GROUP_BYTES = 16 * 1024 * 1024
_NEWLINE = b"\n"


class Sink(Protocol):
    """An open file. Its methods but `abandon` raise OSError, after which only `abandon` may be called.

    `write` and `finish` return how many records a reader can read that could not before; `abandon` gives the file up and
    returns how many of those it was given no reader will. `size` is the file's, in bytes.
    """

    size: int

    def write(self, records: Sequence[Record]) -> int: ...
    def finish(self) -> int: ...
    def abandon(self) -> int: ...


class JsonLines:
    """A JSON object a line, in whole lines: what is in the file can be read at any time, and after a crash."""

    def __init__(self, descriptor: int, *, payloads: bool) -> None:
        self.size = 0
        self._unwritten = 0
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._payloads = payloads

    def write(self, records: Sequence[Record]) -> int:
        self._unwritten = len(records)
        lines = b"".join(
            orjson.dumps(
                record.to_json(payloads=self._payloads),
                default=_plain,
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
            )
            for record in records
        )
        rest = memoryview(lines)
        while rest:  # a disk that is about to be full takes a part
            rest = rest[self._file.write(rest) :]
        self.size += len(lines)
        self._unwritten = 0
        return len(records)

    def finish(self) -> int:
        self._file.close()
        return 0

    def abandon(self) -> int:
        """Take back the half line that a failed write may have left; the whole ones before it stay."""
        with suppress(OSError, ValueError):  # ValueError: it is closed already
            self._file.truncate(self.size)
        with suppress(OSError):
            self._file.close()
        return self._unwritten


class Parquet:
    """A Parquet file, which can be read once it is finished.

    Records become Arrow's a few at a time, which keeps Python's lock for about a millisecond, and wait for their row group,
    which is written without it.
    """

    def __init__(self, descriptor: int, *, payloads: bool) -> None:
        import pyarrow.parquet as pq

        self.size = 0
        self._payloads = payloads
        self._schema = _schema(payloads=payloads)
        self._file = os.fdopen(descriptor, "wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._waiting_records = self._waiting_bytes = 0
        self._records = 0

    @staticmethod
    def prepare() -> None:
        """Have everything imported that `write` needs: where pandas is installed, pyarrow asks it about each array.

        Raises ImportError where pyarrow is not installed.
        """
        import pyarrow.parquet  # noqa: F401  # ParquetWriter's module

        _batch([], _schema(payloads=True), payloads=True)

    def write(self, records: Sequence[Record]) -> int:
        self._records += len(records)
        self._waiting.append(_batch(records, self._schema, payloads=self._payloads))
        self._waiting_records += len(records)
        self._waiting_bytes += sum(record.size for record in records)
        if self._waiting_records >= _ROW_GROUP_RECORDS or self._waiting_bytes >= _ROW_GROUP_BYTES:
            self._flush()
        return 0

    def finish(self) -> int:
        self._flush()
        self._writer.close()
        self._file.close()
        return self._records

    def abandon(self) -> int:
        with suppress(Exception):  # a writer whose file has failed may fail again, and in any way
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        return self._records

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema).combine_chunks())
            self._waiting, self._waiting_records, self._waiting_bytes = [], 0, 0
            self._file.flush()
            self.size = self._file.tell()


def repair_lines(path: Path) -> bool:
    """Take a half line off the end of JSON lines whose writer died; whether any are left. Raises OSError."""
    with path.open("r+b") as file:
        content_end = file.seek(0, os.SEEK_END)
        step, end = 1 << 16, content_end
        while end:
            start = max(0, end - step)
            file.seek(start)
            newline = file.read(end - start).rfind(_NEWLINE)
            if newline >= 0:
                file.truncate(start + newline + 1)
                return True
            end = start
    return False


def _plain(value: Any) -> Any:
    """What orjson has no form for: an array of a type that it does not know."""
    return value.tolist()


def _schema(*, payloads: bool) -> Any:
    import pyarrow as pa

    fields = [
        ("time", pa.timestamp("ms", tz="UTC")),
        *((name, pa.string()) for name in ("request_id", "protocol", "method", "model")),
        ("version", pa.int64()),
        *((name, pa.string()) for name in ("signature", "code")),
        *((name, pa.int64()) for name in ("rows", "batch_rows", "received_bytes", "sent_bytes")),
        *((name, pa.float64()) for name in ("decode_ms", "queue_ms", "compute_ms", "encode_ms", "total_ms")),
        ("traceparent", pa.string()),
    ]
    if payloads:
        tensor = pa.struct(
            [("name", pa.string()), ("datatype", pa.string()), ("shape", pa.list_(pa.int64())), ("raw", pa.binary())]
        )
        fields += [("payload_cut", pa.bool_()), ("inputs", pa.list_(tensor)), ("outputs", pa.list_(tensor))]
    return pa.schema(fields)


def _batch(records: Sequence[Record], schema: Any, *, payloads: bool) -> Any:
    import pyarrow as pa

    rows = [_row(record, payloads=payloads) for record in records]
    return pa.RecordBatch.from_arrays(
        [pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema
    )


def _row(record: Record, *, payloads: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"time": record.time, **record.columns()}
    if payloads:
        row["payload_cut"] = record.cut
        row["inputs"] = [_tensor(tensor) for tensor in record.inputs]
        row["outputs"] = [_tensor(tensor) for tensor in record.outputs]
    return row


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "raw": tensor.raw()}
