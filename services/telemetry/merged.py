"""The metrics pages of processes that share their ports: whichever is asked, all of them are on it.

What they count is added up, as if one process had counted it. What is each process's own (memory, CPU, garbage collection)
has a `worker` label. A worker that does not answer in time has `cornet_worker_up` 0 and the counts of the last time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

from services.telemetry import families, tfs_page, triton_page
from services.telemetry.gpu import Gpus
from services.telemetry.snapshot import Part, Presence, merged
from services.telemetry.tables import Tables


@dataclass(frozen=True, slots=True)
class Collection:
    """What all workers say at one moment. `restarts` has one number per worker; `started` is Unix time."""

    parts: Sequence[Part]
    restarts: Sequence[int]
    started: float

    def tables(self) -> Tables:
        return merged(self.parts, started=self.started)


class Peers(Protocol):
    """The way to the processes that share the ports."""

    async def collect(self) -> Collection:
        """A snapshot of each, this one included, within a bounded time."""
        ...


class Pages:
    """Both pages. They raise Unavailable where the supervisor does not answer; a worker that does not is left out."""

    def __init__(self, peers: Peers, gpus: Gpus) -> None:
        self._peers = peers
        self._gpus = gpus

    async def tables(self) -> Tables:
        """What all of them have counted, without the pages."""
        return (await self._peers.collect()).tables()

    async def render(self) -> tuple[bytes, str]:
        """The text exposition, Triton's names included, and its content type."""
        collection = await self._peers.collect()
        tables, gpus = collection.tables(), self._gpus.read()
        registry = CollectorRegistry()
        for collected in (partial(families.families, tables, gpus), partial(_workers, collection)):
            registry.register(families.Families(collected))
        return generate_latest(registry) + triton_page.exposition(tables, gpus), CONTENT_TYPE_LATEST

    async def render_tensorflow_serving(self) -> tuple[bytes, str]:
        """The names of TensorFlow Serving's Prometheus page, and its content type."""
        collection = await self._peers.collect()
        return tfs_page.exposition(collection.tables()), tfs_page.CONTENT_TYPE


def _workers(collection: Collection) -> Iterator[Metric]:
    yield GaugeMetricFamily("cornet_workers", "Processes that share the ports.", value=len(collection.parts))
    up = GaugeMetricFamily("cornet_worker_up", "1 for a worker that answered this scrape in time.", labels=("worker",))
    restarts = CounterMetricFamily(
        "cornet_worker_restarts", "How often a worker that had ended was started again.", labels=("worker",)
    )
    for part in collection.parts:
        up.add_metric((str(part.worker),), part.presence is Presence.LIVE)
    for worker, count in enumerate(collection.restarts):
        restarts.add_metric((str(worker),), count)
    yield from (up, restarts)
    yield from _processes(collection.parts)


def _processes(parts: Sequence[Part]) -> Iterator[Metric]:
    """What each process says of itself, one family for all of them."""
    found: dict[str, Metric] = {}
    for part in parts:
        if part.snapshot is None or part.presence is not Presence.LIVE:
            continue
        for name, text, kind, samples in part.snapshot["process"]:
            family = found.setdefault(name, Metric(name, text, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": str(part.worker)}, value)
    yield from found.values()
