"""What a batch job is, in plain values that can be sent to any process: options, plan, shards and their results.

    options (what the user asked for)  ->  job (resolved once, by the driver)  ->  shards  ->  one result each

A shard is the unit of work and of restart: its rows are computed in batches of `batch_rows` that depend on the shard
alone, and its output appears whole or not at all. The engines differ only in where shards are processed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from services.manifest import ONNX_FILE
from services.tensors import DEFAULT_SIGNATURE

Engine = Literal["local", "ray"]
Format = Literal["images", "csv", "jsonl", "parquet"]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a user asks for.

    `model` is `NAME` or `NAME/VERSION` in `repository`, `signature` what of it is run. `input` and `output` are paths or
    fsspec URLs. `key` names the column that identifies a record, `column` the one that holds the picture or text. 0 or None
    leaves a number to the job: `batch_rows` to the model's manifest, `shard_rows` and `workers` to the kind of the input;
    `workers=0` decodes in this process. `limit` takes the first records alone. `max_error_rate` (0..1) stops the job where
    more records than that are bad. `address` and `num_gpus_per_actor` are for the Ray engine.
    """

    model: str
    input: str
    output: str
    repository: Path = Path("exported_models")
    engine: Engine = "local"
    address: str | None = None
    num_gpus_per_actor: float = 0.0
    key: str | None = None
    column: str | None = None
    batch_rows: int = 0
    shard_rows: int = 0
    workers: int | None = None
    limit: int | None = None
    max_error_rate: float | None = None
    overwrite: bool = False
    providers: tuple[str, ...] = ()
    signature: str = DEFAULT_SIGNATURE


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One signature of one version of one model. `path` is its directory; `file` holds the function, `sha256` is its hash."""

    name: str
    version: int
    path: Path
    sha256: str
    signature: str = DEFAULT_SIGNATURE
    file: str = ONNX_FILE


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from, and how one becomes what the processor takes.

    `kind` is the processor's (`image`, `prompt`, `series`, `tabular`, `text`), or `tensors` for a model without one.
    `columns` are the ones that are read; `window` is the number of consecutive rows that make one record (1 but for a
    series in steps). `root` is what the paths of pictures are relative to.
    """

    format: Format
    kind: str
    root: str = ""
    columns: tuple[str, ...] = ()
    key: str | None = None
    window: int = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """`rows` consecutive records of the input, the first of them number `first_row` of the whole job.

    `file` is what to read. `start` and `stop` are bytes of a CSV or JSONL file, rows of a Parquet file; for pictures `start`
    is the row group of the job's listing, and `file` that listing.
    """

    index: int
    rows: int
    first_row: int
    file: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards of a job, in order. `digest` identifies the input: names and sizes of its files, however they are listed."""

    source: Source
    shards: tuple[Shard, ...]
    digest: str

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its processes see it: picklable, and the same for every shard.

    `output` is the output's URL. `metadata` goes into every Parquet file. `intra_op_threads` as in BackendOptions.
    """

    model: ModelRef
    source: Source
    output: str
    batch_rows: int
    providers: tuple[str, ...] = ()
    intra_op_threads: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class StageSeconds:
    """Busy time by stage, summed over all processes that did it."""

    read: float = 0.0
    decode: float = 0.0
    compute: float = 0.0
    write: float = 0.0

    def add(self, other: "StageSeconds") -> None:
        self.read += other.read
        self.decode += other.decode
        self.compute += other.compute
        self.write += other.write


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard whose output is in place: how many of its records were answered, and how many are in its error part."""

    index: int
    rows: int
    errors: int
    seconds: StageSeconds


class Report(Protocol):
    """What an engine tells the driver, on the driver's own thread. Either call may raise to stop the job."""

    def advanced(self, records: int, errors: int) -> None:
        """So many more records have been computed, `errors` of them bad; not more often than once per batch."""
        ...

    def finished(self, result: ShardResult) -> None:
        """A shard's output is in place. Its records were told to `advanced` before, or are told with it."""
        ...


class RunShards(Protocol):
    """An engine: process every shard, in any order, and report each. Raises what stops the job, with nothing left running."""

    def __call__(self, job: Job, shards: Sequence[Shard], options: JobOptions, report: Report) -> None: ...
