"""The tables of one process as plain data, for those it shares its ports with.

    snapshot = dump(metrics.tables, metrics.process)                            # in one process, sent as JSON
    tables = merged([Part(0, Presence.LIVE, snapshot), ...], started=started)   # in another

A snapshot has two kinds of numbers. Counts add up, and outlive the process that counted them: its successor takes them in
(`absorb`) and goes on from there, so that the sum over all processes never falls. What describes the moment (rows that
wait, requests in flight, states of versions) is that of the processes that live.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from services.telemetry.bounds import LATENCY_UNION, QUEUING_UNION, ROWS
from services.telemetry.histogram import Histogram, RequestSeries
from services.telemetry.tables import BatchKey, BatchMetrics, Load, RequestKey, Tables, VersionKey

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Snapshot: TypeAlias = dict[str, Any]
"""What JSON can say. `dump` writes it; its inside is this module's, and `process` the pages'."""

_FORMAT: Final = [1, len(LATENCY_UNION), len(QUEUING_UNION), len(ROWS)]
"""The first number is raised with every change of what is written."""
_UNSERVED: Final = ("rejected", "expired", "cancelled", "shut_down")


class Presence(Enum):
    """How current a snapshot is."""

    LIVE = "live"
    """Taken for this scrape."""
    LATE = "late"
    """The process lives but did not answer in time: its last snapshot."""
    GONE = "gone"
    """The process is not there: the last snapshot of it, of which only the counts still hold."""


@dataclass(frozen=True, slots=True)
class Part:
    """One worker's share of a scrape; `snapshot` None where nothing is known of it."""

    worker: int
    presence: Presence
    snapshot: Snapshot | None


def dump(tables: Tables, process: "CollectorRegistry | None" = None) -> Snapshot:
    """The tables, and what `process` tells of the process alone."""
    return {
        "format": _FORMAT,
        "requests": [[*key, _dump_request(series)] for key, series in tables.requests.items()],
        "arrived": dict(tables.arrived),
        "batches": [[*key, _dump_batch(batch)] for key, batch in tables.batches.items()],
        "states": [[*key, state] for key, state in tables.states.items()],
        "loads": [[*key, one.seconds, one.warm_up_seconds, one.provider] for key, one in tables.loads.items()],
        "load_failures": dict(tables.load_failures),
        "request_log": dict(tables.request_log),
        "process": [] if process is None else list(_dump_families(process)),
    }


def is_understood(snapshot: Any) -> bool:
    """Whether this version's `dump` wrote it: another one may have other bounds."""
    return isinstance(snapshot, dict) and snapshot.get("format") == _FORMAT


def absorb(tables: Tables, snapshot: Snapshot) -> None:
    """Add the counts of a process that has gone. Its unanswered requests went with it."""
    for *labels, values in snapshot["requests"]:
        key = RequestKey(*labels)
        _absorb_request(tables.requests.setdefault(key, RequestSeries(LATENCY_UNION)), values)
        tables.arrived[key.protocol] += sum(values["seconds"][0])
    for *labels, values in snapshot["batches"]:
        _absorb_batch(tables.batches.setdefault(BatchKey(*labels), BatchMetrics()), values)
    for model, failures in snapshot["load_failures"].items():
        tables.load_failures[model] = tables.load_failures.get(model, 0) + failures
    for outcome, records in snapshot["request_log"].items():
        tables.request_log[outcome] = tables.request_log.get(outcome, 0) + records


def merged(parts: Iterable[Part], *, started: float) -> Tables:
    """All counts, and the present of those that live. `started` (Unix time) is when the first of them did."""
    tables = Tables(started=started)
    depths: dict[BatchKey, tuple[int, int]] = {}
    for part in parts:
        if part.snapshot is None:
            continue
        absorb(tables, part.snapshot)
        if part.presence is not Presence.GONE:
            _add_present(tables, part.snapshot, depths)
    for key, (rows, requests) in depths.items():
        batch = tables.batches[key]
        batch.depth, batch.waiting = partial(int, rows), partial(int, requests)
    if tables.states:
        # A successor still has what its predecessor counted of versions that have been forgotten since.
        for key in [key for key in tables.batches if VersionKey(key.model, key.version) not in tables.states]:
            del tables.batches[key]
    return tables


def _add_present(tables: Tables, snapshot: Snapshot, depths: dict[BatchKey, tuple[int, int]]) -> None:
    answered: dict[str, int] = {}
    for protocol, *_, values in snapshot["requests"]:
        answered[protocol] = answered.get(protocol, 0) + sum(values["seconds"][0])
    for protocol, arrived in snapshot["arrived"].items():
        tables.arrived[protocol] += arrived - answered.get(protocol, 0)
    for *labels, values in snapshot["batches"]:
        key = BatchKey(*labels)
        rows, requests = depths.get(key, (0, 0))
        depths[key] = rows + values["depth"], requests + values["waiting"]
    for model, version, state in snapshot["states"]:
        version_key = VersionKey(model, version)
        if tables.states.setdefault(version_key, state) != state:
            tables.other_states.add((version_key, state))
    for model, version, seconds, warm_up_seconds, provider in snapshot["loads"]:
        known = tables.loads.get(VersionKey(model, version))
        if known is None or known.seconds < seconds:
            tables.loads[VersionKey(model, version)] = Load(seconds, warm_up_seconds, provider)


def _dump_request(series: RequestSeries) -> dict[str, Any]:
    series.settle()
    return {
        "seconds": series.seconds.dump(),
        "steps": [histogram.dump() for histogram in series.steps],
        "bytes": (series.received_bytes, series.sent_bytes),
        "last_ended_at": series.last_ended_at,
    }


def _absorb_request(series: RequestSeries, values: Mapping[str, Any]) -> None:
    series.seconds.absorb(*values["seconds"])
    for histogram, dumped in zip(series.steps, values["steps"], strict=True):
        histogram.absorb(*dumped)
    received_bytes, sent_bytes = values["bytes"]
    series.received_bytes += received_bytes
    series.sent_bytes += sent_bytes
    series.last_ended_at = max(series.last_ended_at, values["last_ended_at"])


def _dump_batch(batch: BatchMetrics) -> dict[str, Any]:
    return {
        "histograms": [histogram.dump() for histogram in _histograms(batch)],
        "by_rows": [[rows, *counted] for rows, counted in batch.runs.by_rows.items()],
        "unserved": [getattr(batch, name) for name in _UNSERVED],
        "depth": batch.depth(),
        "waiting": batch.waiting(),
    }


def _absorb_batch(batch: BatchMetrics, values: Mapping[str, Any]) -> None:
    for histogram, dumped in zip(_histograms(batch), values["histograms"], strict=True):
        histogram.absorb(*dumped)
    by_rows = batch.runs.by_rows
    for rows, runs, seconds in values["by_rows"]:
        known_runs, known_seconds = by_rows.get(rows, (0, 0.0))
        by_rows[rows] = known_runs + runs, known_seconds + seconds
    for name, count in zip(_UNSERVED, values["unserved"], strict=True):
        setattr(batch, name, getattr(batch, name) + count)


def _histograms(batch: BatchMetrics) -> tuple[Histogram, ...]:
    runs = batch.runs
    return batch.queue_seconds, runs.seconds, runs.rows, runs.padded_rows


def _dump_families(process: "CollectorRegistry") -> Iterable[list[Any]]:
    for family in process.collect():
        samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
        yield [family.name, family.documentation, family.type, samples]
