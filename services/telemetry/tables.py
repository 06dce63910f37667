"""The numbers of one process: plain values under plain keys, which an exposition is made of."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time
from typing import NamedTuple

from services.telemetry.bounds import LATENCY_UNION, QUEUING_UNION, ROWS
from services.telemetry.histogram import Histogram, RequestSeries, RunSeries

CODE_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Names of the canonical codes, by their number."""

PHASES = ("decode", "queue", "compute", "encode")


class RequestKey(NamedTuple):
    """Labels of one kind of answered request. `version` is the one that answered, '' where none did."""

    protocol: str
    method: str
    model: str
    version: str
    code: int


class BatchKey(NamedTuple):
    model: str
    version: str
    signature: str


class VersionKey(NamedTuple):
    model: str
    version: str


class BatchMetrics:
    """The bound series of one (model, version, signature): nothing is looked up per batch.

    `rejected` counts requests refused by a full queue, `expired` those whose deadline passed before their run, `cancelled`
    those withdrawn before their answer, `shut_down` those a model's unloading refused. `depth` and `waiting` are asked at
    each scrape: rows, and requests, that wait for a batch.
    """

    __slots__ = ("cancelled", "depth", "expired", "queue_seconds", "rejected", "runs", "shut_down", "waiting")

    def __init__(self) -> None:
        self.queue_seconds = Histogram(QUEUING_UNION)
        self.runs = RunSeries(LATENCY_UNION, ROWS)
        self.rejected = 0
        self.expired = 0
        self.cancelled = 0
        self.shut_down = 0
        self.depth: Callable[[], int] = lambda: 0
        self.waiting: Callable[[], int] = lambda: 0


@dataclass(slots=True)
class Load:
    """How a version became available: seconds in all and of its warm-up, and what runs it."""

    seconds: float
    warm_up_seconds: float
    provider: str


@dataclass(slots=True)
class Tables:
    """Everything one process has counted."""

    requests: dict[RequestKey, RequestSeries] = field(default_factory=dict)
    arrived: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Requests that arrived, by protocol, answered or not."""
    batches: dict[BatchKey, BatchMetrics] = field(default_factory=dict)
    states: dict[VersionKey, str] = field(default_factory=dict)
    other_states: set[tuple[VersionKey, str]] = field(default_factory=set)
    """Of merged tables: states that further processes have a version in."""
    loads: dict[VersionKey, Load] = field(default_factory=dict)
    load_failures: dict[str, int] = field(default_factory=dict)
    request_log: dict[str, int] = field(default_factory=dict)
    """Records of the request log by what became of them; empty without one."""
    started: float = field(default_factory=time)
