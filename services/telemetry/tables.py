"""The numbers of one process: plain values under plain keys, which an exposition is made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import time
from typing import NamedTuple

from services.telemetry.bounds import LATENCY_UNION, QUEUING_UNION, ROWS
from services.telemetry.histogram import Histogram, Phases

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


def request_series() -> Phases:
    """Series of one `RequestKey`: the four `PHASES` and the whole."""
    return Phases(LATENCY_UNION, (LATENCY_UNION,) * len(PHASES))


@dataclass(slots=True)
class Traffic:
    """One protocol's requests and the bytes of their bodies, inflated, and of the answers' before compression."""

    started: int = 0
    ended: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class TrafficTable(dict[str, Traffic]):
    """By protocol; one that is asked for is there."""

    def __missing__(self, protocol: str) -> Traffic:
        self[protocol] = traffic = Traffic()
        return traffic


class BatchMetrics:
    """The bound series of one (model, version, signature): nothing is looked up per batch.

    `rejected` counts requests refused by a full queue, `expired` those whose deadline passed before their run, `cancelled`
    those withdrawn before their answer, `shut_down` those a model's unloading refused. `depth` and `waiting` are asked at
    each scrape: rows, and requests, that wait for a batch.
    """

    __slots__ = (
        *("cancelled", "compute_seconds", "depth", "expired", "padded_rows", "queue_seconds"),
        *("rejected", "rows", "shut_down", "waiting"),
    )

    def __init__(self) -> None:
        self.queue_seconds = Histogram(QUEUING_UNION)
        self.compute_seconds = Histogram(LATENCY_UNION)
        self.rows = Histogram(ROWS)
        self.padded_rows = Histogram(ROWS)
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

    requests: dict[RequestKey, Phases] = field(default_factory=dict)
    traffic: TrafficTable = field(default_factory=TrafficTable)
    batches: dict[BatchKey, BatchMetrics] = field(default_factory=dict)
    states: dict[VersionKey, str] = field(default_factory=dict)
    loads: dict[VersionKey, Load] = field(default_factory=dict)
    load_failures: dict[str, int] = field(default_factory=dict)
    request_log: dict[str, int] = field(default_factory=lambda: {"written": 0, "dropped": 0})
    started: float = field(default_factory=time)
