"""From a shard's place in the input to batches of tensors, record by record accounted for.

    for chunk in read_chunks(source, shard, batch_rows):        # in the driver: cheap
        for batch in decode(source, encoder, chunk, batch_rows):    # in a worker process

A chunk is what one worker task gets. Pictures are cut into chunks of one batch; of a table a chunk is the whole shard.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from errno import EFBIG, EINVAL, EISDIR
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from services.batch.columns import element
from services.batch.job import Shard, Source, StageSeconds
from services.batch.storage import file_system
from services.batch.tables import (
    Bad,
    Row,
    csv_rows,
    header_of,
    json_rows,
    open_parquet,
    parquet_rows,
    parquet_tables,
    read_span,
)
from services.errors import DataError, DataLoss

Key = int | str

MAX_FILE_BYTES = 512 * 2**20
"""Largest picture file that is read: more than the processor's largest picture takes uncompressed."""


class Encoder(Protocol):
    """A processor, or what stands in for one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def encode(self, records: Sequence[Any]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record without an answer, and why."""

    key: Key
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Raw records, the first of them number `first_row` of the job: rows, a Parquet table, or the bytes of a CSV or JSONL
    file (`header` names the columns of the former).
    """

    first_row: int
    rows: int
    content: list[Row] | pa.Table | bytes
    header: tuple[str, ...] = ()


@dataclass(slots=True)
class Batch:
    """Encoded records: `keys[i]` is row `i` of every input. `bad` are those that could not be encoded."""

    keys: list[Key]
    inputs: dict[str, np.ndarray]
    bad: list[BadRecord]


@dataclass(slots=True)
class Decoded:
    """A chunk's batches, and the time that reading and decoding took where it was done."""

    batches: list[Batch]
    seconds: StageSeconds = field(default_factory=StageSeconds)


def read_chunks(source: Source, shard: Shard, batch_rows: int) -> Iterator[Chunk]:
    """What a shard's records are made from, in order; at most a shard's bytes, or a batch of pictures, at a time."""
    if source.kind != "image":
        yield _whole(source, shard)
        return
    first = shard.first_row
    rows = islice(_picture_rows(source, shard, batch_rows), shard.rows)
    while portion := list(islice(rows, batch_rows)):
        yield Chunk(first, len(portion), portion)
        first += len(portion)


def decode(source: Source, encoder: Encoder, chunk: Chunk, batch_rows: int) -> Decoded:
    """All records of a chunk in batches of `batch_rows`; a bad one leaves its batch that much smaller."""
    began = perf_counter()
    done = Decoded([])
    rows = list(islice(_rows(source, chunk), chunk.rows + source.window - 1))
    keys = [_key(source, row, chunk.first_row + index) for index, row in enumerate(rows)]
    records = [
        Bad(f"{source.key}: expected a key.") if key is None else _record(source, encoder, row)
        for key, row in zip(keys, rows, strict=True)
    ]
    if source.window > 1:
        records, keys = _windows(records, source.window), keys[source.window - 1 :]
    for start in range(0, len(records), batch_rows):
        portion = records[start : start + batch_rows]
        names = [
            chunk.first_row + start + i if key is None else key
            for i, key in enumerate(keys[start : start + batch_rows])
        ]
        if source.kind == "image":
            read = perf_counter()
            portion = _fetch(source.root, portion)
            done.seconds.read += perf_counter() - read
        done.batches.append(_encode(encoder, names, portion))
    done.seconds.decode = perf_counter() - began - done.seconds.read
    return done


def _whole(source: Source, shard: Shard) -> Chunk:
    if source.format == "parquet":
        rows = shard.stop - shard.start
        try:
            tables = list(parquet_tables(shard.file, _columns(source), shard.start, shard.stop, rows))
        except DataLoss as error:
            return Chunk(shard.first_row, shard.rows, [Bad(str(error))] * rows)
        return Chunk(shard.first_row, shard.rows, pa.concat_tables(tables))
    header = tuple(header_of(shard.file)) if source.format == "csv" else ()
    return Chunk(shard.first_row, shard.rows, read_span(shard.file, shard.start, shard.stop), header)


def _picture_rows(source: Source, shard: Shard, batch_rows: int) -> Iterator[Row]:
    if source.format == "images":
        with open_parquet(shard.file) as file:
            names = file.read_row_group(shard.start).column("path").to_pylist()
        yield from (name.decode("utf-8", "surrogateescape") for name in names)
    elif source.format == "parquet":
        left = shard.stop - shard.start
        try:
            for table in parquet_tables(shard.file, _columns(source), shard.start, shard.stop, batch_rows):
                yield from parquet_rows(table)
                left -= table.num_rows
        except DataLoss as error:
            yield from [Bad(str(error))] * left
    else:
        yield from _rows(source, _whole(source, shard))


def _columns(source: Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*source.columns, *((source.key,) if source.key else ()))))


def _rows(source: Source, chunk: Chunk) -> Iterable[Row]:
    if isinstance(chunk.content, list):
        return chunk.content
    if isinstance(chunk.content, pa.Table):
        return parquet_rows(chunk.content)
    return csv_rows(chunk.header, chunk.content) if source.format == "csv" else json_rows(chunk.content)


def _key(source: Source, row: Row, number: int) -> Key | None:
    """What identifies a row: its path, its key column as text, else its number. None where the key is missing."""
    if source.format == "images":
        return _printable(str(row))
    if source.key is None:
        return number
    value = row.get(source.key) if isinstance(row, dict) else None
    if isinstance(row, Bad):
        return str(number)
    return None if value is None or value == "" else _printable(str(value))


def _printable(text: str) -> str:
    """A text that was no UTF-8, with its odd bytes written out, so that Parquet takes it."""
    return text if text.isprintable() else text.encode("utf-8", "backslashreplace").decode()


def _record(source: Source, encoder: Encoder, row: Row) -> Any:
    """What the encoder takes of a row."""
    if isinstance(row, Bad) or not isinstance(row, dict):
        return row
    needed = source.columns[:1] if source.kind == "prompt" else source.columns
    missing = [name for name in needed if name not in row]
    if missing:
        return Bad(f"expected the columns {', '.join(source.columns)}. Received: none of {', '.join(missing)}.")
    if source.kind == "prompt" and source.columns:
        first, *options = source.columns
        return {encoder.names[0]: row[first], **{name: row.get(name) for name in options}}
    if source.columns == encoder.names:
        return {name: row[name] for name in source.columns}
    if source.kind == "tabular" and source.columns:
        return _with_elements(encoder.names, row)
    return row[source.columns[0]] if source.columns else row


def _with_elements(names: Sequence[str], row: dict[str, Any]) -> Any:
    """A row by column name, where some names mean elements of its vectors."""
    record = {}
    for name in names:
        column, index = (name, -1) if name in row else element(name) or (name, -1)
        value = row.get(column)
        if index >= 0:
            if not isinstance(value, list) or index >= len(value):
                found = f"{len(value)} numbers" if isinstance(value, list) else "none"
                return Bad(f"column {column!r}: expected a vector of at least {index + 1} numbers. Received: {found}.")
            value = value[index]
        record[name] = value
    return record


def _windows(steps: list[Any], window: int) -> list[Any]:
    """Every run of `window` steps; one with a bad step in it is bad."""
    windows: list[Any] = []
    for start in range(len(steps) - window + 1):
        run = steps[start : start + window]
        windows.append(next((step for step in run if isinstance(step, Bad)), run))
    return windows


def _fetch(root: str, records: list[Any]) -> list[Any]:
    """Paths turned into the bytes behind them; from an object store all at once."""
    paths = {i: _located(root, value) for i, value in enumerate(records) if isinstance(value, str)}
    if not paths:
        return records
    contents = _read_all(list(paths.values()))
    fetched = list(records)
    for (index, _), content in zip(paths.items(), contents, strict=True):
        if isinstance(content, bytes):
            fetched[index] = content
        else:
            reason = getattr(content, "strerror", None) or type(content).__name__
            fetched[index] = Bad(f"expected a readable file. Received: {reason}.")
    return fetched


def _located(root: str, path: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{root}/{path}"


def _read_all(paths: list[str]) -> list[bytes | Exception]:
    fs, _ = file_system(paths[0])
    if isinstance(fs, LocalFileSystem):
        return [_read(path) for path in paths]
    plain = [file_system(path)[1] for path in paths]
    found = fs.cat(plain, on_error="return")
    contents = found if isinstance(found, dict) else {plain[0]: found}
    return [contents.get(path, FileNotFoundError(path)) for path in plain]


def _read(path: str) -> bytes | Exception:
    try:
        file = Path(path.removeprefix("file://"))
        found = file.stat()
        if S_ISDIR(found.st_mode):
            return IsADirectoryError(EISDIR, "Is a directory")
        if not S_ISREG(found.st_mode):
            return OSError(EINVAL, "a pipe or device")  # reading one may never end
        if found.st_size > MAX_FILE_BYTES:
            return OSError(EFBIG, f"{found.st_size:,} bytes")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        return error


def _encode(encoder: Encoder, keys: list[Key], records: list[Any]) -> Batch:
    """Encode all at once; only where that fails look which record is to blame."""
    batch = Batch([], {}, [])
    good: list[Any] = []
    for key, record in zip(keys, records, strict=True):
        if isinstance(record, Bad):
            batch.bad.append(BadRecord(key, record.reason))
        else:
            batch.keys.append(key)
            good.append(record)
    if not good:
        return batch
    try:
        batch.inputs = encoder.encode(good)
    except DataError:
        _encode_singly(encoder, batch, good)
    return batch


def _encode_singly(encoder: Encoder, batch: Batch, records: list[Any]) -> None:
    keys, batch.keys = batch.keys, []
    parts: list[dict[str, np.ndarray]] = []
    good: list[Any] = []
    for key, record in zip(keys, records, strict=True):
        try:
            parts.append(encoder.encode([record]))
        except DataError as error:
            batch.bad.append(BadRecord(key, str(error).removeprefix("record 0").lstrip(":, ")))
        else:
            batch.keys.append(key)
            good.append(record)
    if not good:
        return
    if all(array.shape == parts[0][name].shape for part in parts for name, array in part.items()):
        batch.inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    else:
        batch.inputs = encoder.encode(good)
