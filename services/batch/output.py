"""What a job leaves behind.

    <output>/rows/part-000000.parquet     a shard: key, outputs, and the label where there are classes
    <output>/errors.parquet               every bad record: key, reason
    <output>/summary.json
    <output>/_job/                        what a later run needs: job.json, plan.parquet, listing.parquet, errors/

`rows` is a folder that pandas, Spark or DuckDB read as one table. A part is there whole or not at all, and its errors are
in place before it is: a part that is there is a shard that is done.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.batch.decoding import BadRecord, Key
from services.batch.job import Shard, Source
from services.batch.storage import Storage
from services.errors import FailedPrecondition
from services.tensors import DYNAMIC, TensorSpec

ROWS = "rows"
ERRORS_FILE = "errors.parquet"
SUMMARY_FILE = "summary.json"
JOB_FOLDER = "_job"
JOB_FILE = f"{JOB_FOLDER}/job.json"
ERROR_PARTS = f"{JOB_FOLDER}/errors"
LABEL = "label"
_ERROR_FIELDS = [("key", pa.string()), ("reason", pa.string())]


def part_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def part_index(name: str) -> int | None:
    """The shard a file name stands for, None where it is no part."""
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if digits.isdigit() and part_name(int(digits)) == name else None


def schema_of(
    outputs: Sequence[TensorSpec], source: Source, metadata: Mapping[str, str], *, labelled: bool
) -> pa.Schema:
    """`key`, one column per output, `label` where asked for. A vector is a fixed-size list, one number a plain column.

    Raises FailedPrecondition for an output that takes the name of another column, or without a declared rank.
    """
    by_path = source.format == "images" or source.key is not None
    fields = [pa.field("key", pa.string() if by_path else pa.int64(), nullable=False)]
    for spec in outputs:
        if spec.name in {"key", LABEL} or spec.shape is None:
            raise FailedPrecondition(f"Expected outputs of a known rank, not called key or {LABEL}. Received: {spec}.")
        fields.append(pa.field(spec.name, _column_type(spec)))
    if labelled:
        fields.append(pa.field(LABEL, pa.string()))
    return pa.schema(fields, {f"cornet.{name}": value for name, value in metadata.items()})


def to_batch(
    schema: pa.Schema, keys: Sequence[Key], outputs: Mapping[str, np.ndarray], labels: Sequence[str]
) -> pa.RecordBatch:
    """A batch's answers in the part's columns."""
    columns = []
    for field in schema:
        if field.name == "key":
            columns.append(pa.array(keys, field.type))
        elif field.name in outputs:
            columns.append(_column(outputs[field.name], field.type))
        else:
            columns.append(pa.array(labels, field.type))
    return pa.record_batch(columns, schema=schema)


def write_part(
    storage: Storage, schema: pa.Schema, shard: Shard, batches: Sequence[pa.RecordBatch], bad: Sequence[BadRecord]
) -> None:
    """Put a shard's error part, then the part itself, which says that the shard is done."""
    name = part_name(shard.index)
    if bad:
        errors = pa.table([[str(record.key) for record in bad], [record.reason for record in bad]], _errors(schema))
        storage.put(f"{ERROR_PARTS}/{name}", _parquet(errors))
    else:
        storage.delete(f"{ERROR_PARTS}/{name}")  # of a run that was killed between the two, when a file was missing
    storage.put(f"{ROWS}/{name}", _parquet(pa.Table.from_batches(batches, schema)))


def done_shards(storage: Storage) -> set[int]:
    """Which shards have their part in place."""
    return {index for name in storage.names(ROWS) if (index := part_index(name)) is not None}


def count_errors(storage: Storage, shards: set[int]) -> int:
    """Bad records of the shards that are done."""
    return sum(_rows_in(storage, name) for name in _error_parts(storage, shards))


def merge_errors(storage: Storage, metadata: Mapping[str, str], shards: set[int]) -> None:
    """Write errors.parquet from the parts of the shards that are done, one part in memory at a time."""
    schema = pa.schema(_ERROR_FIELDS, {f"cornet.{name}": value for name, value in metadata.items()})
    with storage.create(ERRORS_FILE) as file, pq.ParquetWriter(file, schema) as writer:
        for name in _error_parts(storage, shards):
            with storage.open(name) as part:
                writer.write_table(pq.read_table(part).cast(schema))


def _error_parts(storage: Storage, shards: set[int]) -> Iterator[str]:
    for name in sorted(storage.names(ERROR_PARTS)):
        if part_index(name) in shards:
            yield f"{ERROR_PARTS}/{name}"


def _rows_in(storage: Storage, name: str) -> int:
    with storage.open(name) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _errors(schema: pa.Schema) -> pa.Schema:
    return pa.schema(_ERROR_FIELDS, schema.metadata)


def _parquet(table: pa.Table) -> memoryview:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getbuffer()


def _column_type(spec: TensorSpec) -> pa.DataType:
    kind: Any = pa.string() if spec.dtype.is_string else pa.from_numpy_dtype(spec.dtype.numpy)
    axes = _axes(spec.shape or ())
    for length in reversed(axes):
        kind = pa.list_(kind) if length == DYNAMIC else pa.list_(kind, length)
    return kind


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of one row; a vector of one number is that number."""
    return () if shape[1:] == (1,) else shape[1:]


def _column(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Rows of an output as its column; numbers are not touched."""
    lengths = array.shape[1:]
    if array.dtype == object:
        values = pa.array([value.decode("utf-8") for value in array.reshape(-1)], pa.string())
    else:
        values = pa.array(np.ascontiguousarray(array).reshape(-1))
    kinds = []
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kinds.append(kind)
        kind = kind.value_type
    for level, length in zip(reversed(kinds), reversed(lengths[: len(kinds)]), strict=True):
        if pa.types.is_fixed_size_list(level):
            values = pa.FixedSizeListArray.from_arrays(values, type=level)
        else:
            offsets = np.arange(0, len(values) + 1, max(length, 1), dtype=np.int32)
            values = pa.ListArray.from_arrays(offsets, values, type=level)
    return values
