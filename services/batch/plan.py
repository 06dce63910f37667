"""Which records a job has, cut into shards: decided once, kept beside the output, and the same for every later run."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.batch.columns import Wanted, choose_columns
from services.batch.job import Format, Plan, Shard, Source
from services.batch.listing import FileEntry, Listing, encoded, find_input
from services.batch.output import ERRORS_FILE, JOB_FOLDER, ROWS, SUMMARY_FILE
from services.batch.storage import Storage
from services.batch.tables import check_columns, header_of, open_parquet, sniff_json, spans
from services.errors import InvalidArgument, NotFound

LISTING_FILE = "_job/listing.parquet"
PLAN_FILE = "_job/plan.parquet"
PICTURES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp")
_TABLES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_PATHS = pa.schema([("path", pa.binary())])
"""As the file system has them: on Linux a name is bytes, of whatever encoding."""
_SHARDS = pa.schema(
    [(name, pa.int64()) for name in ("index", "rows", "first_row", "start", "stop")] + [("file", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Input:
    """An input as found, before it is cut: what it is, and where its files are."""

    format: Format
    listing: Listing
    url: str

    def files(self) -> Iterator[FileEntry]:
        for entry in self.listing.files():
            # In a folder only what looks like a picture or a table counts; a glob says itself what it means.
            if self.listing.pattern is not None or self.listing.single or _format(entry.name) == self.format:
                yield entry


def find(url: str, kind: str, output: Storage) -> Input:
    """What an input is: by its suffix, or by the model where it is a folder. Raises NotFound, InvalidArgument.

    What the job itself writes is no input, also where `output` lies in the folder that is read.
    """
    own = (f"{ROWS}/", f"{JOB_FOLDER}/", ERRORS_FILE, SUMMARY_FILE)
    listing = find_input(url).without(output.fs, tuple(map(output.at, own)))
    name = listing.single or (url if listing.pattern else "")
    if name:
        format_: Format | None = _format(name) or ("images" if kind == "image" else None)
    elif kind == "image":
        format_ = "images"
    else:
        found = {_format(entry.name) for entry in islice(listing.files(), 10_000)} - {None, "images"}
        format_ = next(iter(found)) if len(found) == 1 else None
    if format_ is None or (format_ == "images" and kind != "image"):
        expected = "a folder or glob of pictures, or " if kind == "image" else ""
        raise InvalidArgument(f"Expected {expected}files of one kind, out of {', '.join(_TABLES)}. Received: {url}.")
    return Input(format_, listing, url)


def digest_of(found: Input, limit: int | None) -> str:
    """Identifies the input by its files' names, sizes and stamps; for pictures names and sizes, up to `limit` of them."""
    return _digest(islice(found.files(), limit) if found.format == "images" else found.files())


def make_plan(found: Input, wanted: Wanted, storage: Storage, shard_rows: int, limit: int | None) -> Plan:
    """Read through the input once and cut it into shards; the listing of pictures and the plan are stored.

    Raises NotFound where there is no record, InvalidArgument where a table lacks a column.
    """
    if found.format == "images":
        source, shards, digest = _plan_pictures(found, storage, shard_rows, limit)
    else:
        source, shards, digest = _plan_tables(found, wanted, shard_rows, limit)
    if not shards:
        raise NotFound(f"Expected at least one record. Received: none in {found.url}.")
    with storage.create(PLAN_FILE) as file:
        pq.write_table(pa.Table.from_pylist([asdict(shard) for shard in shards], _SHARDS), file)
    return Plan(source, tuple(shards), digest)


def read_plan(storage: Storage, source: Source, digest: str) -> Plan:
    """The plan that an earlier run has stored."""
    with storage.open(PLAN_FILE) as file:
        rows = pq.read_table(file).to_pylist()
    return Plan(source, tuple(Shard(**row) for row in rows), digest)


def _plan_pictures(
    found: Input, storage: Storage, shard_rows: int, limit: int | None
) -> tuple[Source, list[Shard], str]:
    shards: list[Shard] = []
    digest = _Digest()
    entries = islice(found.files(), limit)
    first = 0
    with storage.create(LISTING_FILE) as file, pq.ParquetWriter(file, _PATHS) as writer:
        while portion := list(islice(entries, shard_rows)):
            for entry in portion:
                digest.add(entry)
            group = len(shards)
            names = [encoded(entry.name) for entry in portion]
            writer.write_table(pa.table({"path": names}, _PATHS), row_group_size=shard_rows)
            shards.append(Shard(group, len(names), first, storage.url_of(LISTING_FILE), group, group + 1))
            first += len(names)
    return Source("images", "image", root=found.listing.root), shards, digest.text()


def _plan_tables(found: Input, wanted: Wanted, shard_rows: int, limit: int | None) -> tuple[Source, list[Shard], str]:
    entries = sorted(found.files(), key=lambda entry: entry.name)
    if not entries:
        raise NotFound(f"Expected a table of records. Received: no file in {found.url}.")
    urls = [found.listing.url(entry.name) for entry in entries]
    source = choose_columns(found.format, wanted, partial(_columns, found.format, urls[0]), found.listing.root)
    shards: list[Shard] = []
    first = 0
    for url in urls:
        if found.format == "parquet":
            check_columns(url, source)
        for start, stop, rows in spans(source, url, shard_rows):
            taken = rows if limit is None else min(rows, limit - first)
            if taken <= 0:
                break
            shards.append(Shard(len(shards), taken, first, url, start, stop))
            first += taken
    return source, shards, _digest(entries)


def _columns(format_: Format, url: str) -> dict[str, Any]:
    """Column names of a table to a type or example, as far as it is known without reading it."""
    if format_ == "csv":
        return dict.fromkeys(header_of(url), "")
    if format_ == "jsonl":
        return sniff_json(url)
    with open_parquet(url) as file:
        return {field.name: field.type for field in file.schema_arrow}


def _format(name: str) -> Format | None:
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    return "images" if suffix in PICTURES else _TABLES.get(suffix)


def _digest(entries: Iterable[FileEntry]) -> str:
    digest = _Digest()
    for entry in entries:
        digest.add(entry)
    return digest.text()


class _Digest:
    """Of a set of files, in whatever order they are listed: the sum of their hashes, and their number."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, entry: FileEntry) -> None:
        content = encoded(f"{entry.name}\0{entry.size}\0{entry.stamp}")
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(content).digest())) % 2**256
        self._count += 1

    def text(self) -> str:
        return f"{self._count}-{self._sum:064x}"
