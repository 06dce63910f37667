"""CSV, JSON lines and Parquet: where shards of a table begin and end, and their rows."""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from services.batch.job import Source
from services.batch.storage import open_url
from services.errors import DataError, DataLoss

_SNIFFED_LINES = 100


@dataclass(frozen=True, slots=True)
class Bad:
    """Stands where a row could not be read."""

    reason: str


Row = dict[str, Any] | Any | Bad
"""A row by column name; whatever a JSON line holds; or why there is none."""


def check_columns(url: str, source: Source) -> None:
    """Raises DataError where a Parquet file lacks a column that is read, or has it twice."""
    with open_parquet(url) as file:
        names = file.schema_arrow.names
    wanted = dict.fromkeys((*source.columns, *((source.key,) if source.key else ())))
    wrong = [name for name in wanted if names.count(name) != 1]
    if wrong:
        raise DataError(f"Expected the columns {', '.join(wrong)}, each once. Received: {url} with {', '.join(names)}.")


def spans(source: Source, url: str, shard_rows: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, records) of each shard of a file: bytes, or rows for Parquet.

    Where `source.window` rows make a record, neighbouring spans overlap by one row less than that.
    """
    more = source.window - 1
    if source.format == "parquet":
        with open_parquet(url) as file:
            records = file.metadata.num_rows - more
        for start in range(0, records, shard_rows):
            rows = min(shard_rows, records - start)
            yield start, start + rows + more, rows
        return
    begun: deque[tuple[int, int]] = deque()
    count = stop = 0
    for index, (start, stop) in enumerate(_places(source, url)):  # the last stop ends the last span
        count = index + 1
        if index % shard_rows == 0:
            begun.append((index, start))
        if index == begun[0][0] + shard_rows + more - 1:
            yield begun.popleft()[1], stop, shard_rows
    for first, start in begun:
        if count - first - more > 0:
            yield start, stop, count - first - more


def header_of(url: str) -> list[str]:
    """Column names of a CSV file. Raises DataError where there are none, or one twice."""
    return _header(url)[0]


def sniff_json(url: str) -> dict[str, Any]:
    """The first JSON object of a file, as an example of its columns; empty where its lines are no objects."""
    with _open_text(url) as file:
        for line in islice(file, _SNIFFED_LINES):
            row = _json(line)
            if isinstance(row, dict):
                return row
            if line.strip() and not isinstance(row, Bad):
                return {}
    return {}


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """Raises DataError where it is no Parquet file."""
    with open_url(url) as raw:
        try:
            file = pq.ParquetFile(raw)
        except pa.ArrowInvalid as error:
            raise DataError(f"Expected a Parquet file. Received: {url} ({error}).") from error
        yield file


def read_span(url: str, start: int, stop: int) -> bytes:
    with open_url(url) as file:
        file.seek(start)
        content: bytes = file.read(stop - start)
    return content


def csv_rows(header: Sequence[str], content: bytes) -> Iterator[Row]:
    """Rows by column name. One that is not well formed, or not as long as the header, is bad."""
    for _, cells in _csv_records(io.BytesIO(content)):
        if isinstance(cells, Bad):
            yield cells
        elif len(cells) != len(header):
            yield Bad(f"expected {len(header)} cells. Received: {len(cells)}.")
        else:
            yield dict(zip(header, cells, strict=True))


def json_rows(content: bytes) -> Iterator[Row]:
    for line in content.split(b"\n"):
        if line.strip():
            yield _json(line)


def parquet_tables(url: str, columns: Sequence[str], start: int, stop: int, rows: int) -> Iterator[pa.Table]:
    """The rows from `start` to `stop` of a file, in tables of `rows`; only the row groups that hold them are read.

    Raises DataLoss where the file is damaged.
    """
    with open_parquet(url) as file:
        groups: list[int] = []
        position = base = 0
        for group in range(file.metadata.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if position < stop and position + length > start:
                base = base if groups else position
                groups.append(group)
            position += length
        wanted = pa.schema([file.schema_arrow.field(name) for name in columns])
        left = wanted.empty_table()
        position = base
        for batch in _undamaged(url, file.iter_batches(rows, row_groups=groups, columns=list(columns))):
            first, last = max(start - position, 0), min(stop - position, batch.num_rows)
            position += batch.num_rows
            if first < last:
                piece = pa.Table.from_batches([batch.slice(first, last - first)]).select(list(columns))
                left = pa.concat_tables([left, piece.cast(wanted)])
            while left.num_rows >= rows:
                yield left.slice(0, rows)
                left = left.slice(rows)
        if left.num_rows:
            yield left


def _undamaged(url: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system or the network: no fault of the rows
        raise DataLoss(f"expected whole pages of Parquet in {url}. Received: {' '.join(str(error).split())}") from error


def parquet_rows(table: pa.Table) -> Iterator[Row]:
    names = table.column_names
    for cells in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield dict(zip(names, cells, strict=True))


def _places(source: Source, url: str) -> Iterator[tuple[int, int]]:
    """Where each record of a CSV or JSONL file begins and ends, in bytes."""
    with _open_text(url) as file:
        if source.format == "csv":
            file.seek(_header(url)[1])
        start = first = file.tell()
        if source.format == "csv":
            for stop, _ in _csv_records(file):
                yield start, first + stop
                start = first + stop
            return
        for line in file:
            if line.strip():
                yield start, start + len(line)
            start += len(line)


def _header(url: str) -> tuple[list[str], int]:
    """Names, and where the first row begins."""
    with _open_text(url) as file:
        start = file.tell()
        stop, cells = next(_csv_records(file), (0, Bad("an empty file")))
    if isinstance(cells, Bad) or len(set(cells)) != len(cells):
        received = cells.reason if isinstance(cells, Bad) else ", ".join(cells)
        raise DataError(f"Expected a header of different column names. Received: {received}.")
    return cells, start + stop


@contextmanager
def _open_text(url: str) -> Iterator[Any]:
    """A file behind its byte order mark, if it has one. Raises DataError for UTF-16."""
    with open_url(url) as file:
        mark = file.read(len(codecs.BOM_UTF8))
        if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"Expected UTF-8. Received: UTF-16 in {url}.")
        file.seek(len(mark) if mark == codecs.BOM_UTF8 else 0)
        yield file


def _csv_records(source: Iterable[bytes]) -> Iterator[tuple[int, list[str] | Bad]]:
    """The number of bytes up to the end of each record, and its cells; blank lines are passed over.

    A quote that is opened and never closed would swallow the rest of the file: after an error the next line is tried.
    """
    lines = _Lines(source)
    while True:
        try:
            for cells in csv.reader(lines, strict=True):
                if cells:
                    yield lines.kept(), cells
                else:
                    lines.kept()
        except csv.Error as error:
            yield lines.keep_first(), Bad(f"expected a row of CSV. Received: {error}.")
        else:
            return


class _Lines:
    """Lines as text, with the bytes counted that whole records have taken; the rest can be given back."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = iter(source)
        self._returned: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._offset = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._source)
        self._taken.append(line)
        return line.decode("utf-8", "surrogateescape")  # a text with such a character is refused by the processor

    def kept(self) -> int:
        """All lines taken so far belong to records that end here: the number of their bytes."""
        self._offset += sum(map(len, self._taken))
        self._taken.clear()
        return self._offset

    def keep_first(self) -> int:
        """Only the first line taken since then does; the others come again."""
        first, *others = self._taken
        self._offset += len(first)
        self._returned.extendleft(reversed(others))
        self._taken.clear()
        return self._offset


def _json(line: bytes) -> Row:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Bad(f"expected a line of JSON (it has no NaN). Received: {error}.")
