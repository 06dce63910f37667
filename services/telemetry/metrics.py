"""What one process counts.

    metrics = Metrics()
    exchange = Exchange(metrics, "tfs-grpc", "Predict", metadata)       # a front end, per request: see there
    series = metrics.batch("regressor", 3, "serving_default")           # a batcher, once
    body, content_type = metrics.render()

The values are plain numbers in `tables`, turned into an exposition when somebody scrapes: an observation then costs a
dictionary lookup and a list's growth, where prometheus_client's own children take a lock per value. Every call comes from
the event loop's thread.

Labels are bounded: a model name that no client invented (`track_version` has seen it), else `unknown`; the protocol and
method names are the front ends' own constants.

Processes that share a port are merged at scrape (`snapshot`, `merged`): keys of the tables are label values, and their
values add up (histograms of one kind have the same bounds); the process's own metrics stay apart under a label. `families`,
`tfs_page` and `triton_page` write any tables, those of one process or merged ones.

prometheus_client, with the web servers it brings, is imported by the first scrape: a server does not start later for it.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from services.telemetry import tfs_page, triton_page
from services.telemetry.bounds import LATENCY_UNION
from services.telemetry.exchange import Exchange
from services.telemetry.gpu import Gpus
from services.telemetry.histogram import RequestSeries
from services.telemetry.snapshot import Snapshot, dump
from services.telemetry.tables import BatchKey, BatchMetrics, Load, RequestKey, Tables, VersionKey

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from services.telemetry.merged import Pages, Peers

__all__ = ["BatchMetrics", "Listener", "Metrics"]

_UNKNOWN = "unknown"

Listener: TypeAlias = Callable[[Exchange], None]
"""Told of every request as it ends, on the loop's thread, before the answer is sent. It neither blocks nor raises."""

Draw: TypeAlias = Callable[[Exchange], bool]
"""Whether a sampling listener needs a request that has just arrived; asked once, and the request keeps the answer."""


class Metrics:
    """All series of one process, in a registry of their own.

    `gpus` False never asks for GPUs. `listeners` hear of every request that ends: the request log, the tracer. Those that
    sample have their draw in `draws`, so that the others may go unheard. `pages` is set where processes share
    the ports: what to answer then.
    """

    def __init__(self, *, gpus: bool = True) -> None:
        self.tables = Tables()
        self.listeners: list[Listener] = []
        self.draws: list[Draw] = []
        self.arrived = self.tables.arrived
        self.series: dict[tuple[str, str, str, int | None, int], RequestSeries] = {}
        """By protocol, method, model, version and code as an `Exchange` has them: what `admit` has found before."""
        self._models: set[str] = set()
        self._gpus = Gpus.find() if gpus else Gpus()
        self.pages: Pages | None = None

    @cached_property
    def process(self) -> "CollectorRegistry":
        """What is this process's own, and never adds up."""
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        registry = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=registry)
        return registry

    @cached_property
    def registry(self) -> "CollectorRegistry":
        """All of it."""
        from prometheus_client import CollectorRegistry

        from services.telemetry.families import Families

        registry = CollectorRegistry()
        registry.register(Families(self.families))
        registry.register(self.process)
        return registry

    def is_heard(self, exchange: Exchange) -> bool:
        """Whether a listener needs to hear of a request, should it go well."""
        if len(self.draws) < len(self.listeners):  # one of them takes all
            return True
        drawn = [draw(exchange) for draw in self.draws]
        return True in drawn

    def admit(self, protocol: str, method: str, model: str, version: int | None, code: int) -> RequestSeries:
        """The series of a kind of request seen for the first time; names that clients invent share one."""
        if model not in self._models:
            shown = _UNKNOWN if model else ""
            label = ""
        else:
            shown = model
            label = str(version) if (model, str(version)) in self.tables.states else ""
        key = RequestKey(protocol, method, shown, label, code)
        series = self.tables.requests.setdefault(key, RequestSeries(LATENCY_UNION))
        if shown == model and label == ("" if version is None else str(version)):
            self.series[protocol, method, model, version, code] = series
        return series

    def batch(self, model: str, version: int, signature: str) -> BatchMetrics:
        """The series a batcher records to."""
        return self.tables.batches.setdefault(BatchKey(model, str(version), signature), BatchMetrics())

    def track_version(self, model: str, version: int, state: str) -> None:
        """Record the state a version entered, and let requests be counted under its name."""
        self._models.add(model)
        self.tables.load_failures.setdefault(model, 0)  # a rate needs the zero before the first failure
        self.tables.states[VersionKey(model, str(version))] = state

    def track_load(
        self, model: str, version: int, seconds: float, provider: str, *, warm_up_seconds: float = 0.0
    ) -> None:
        """Record how long a version took to become available, its warm-up included, and what runs it."""
        self.tables.loads[VersionKey(model, str(version))] = Load(seconds, warm_up_seconds, provider)

    def track_load_failure(self, model: str) -> None:
        failures = self.tables.load_failures
        failures[model] = failures.get(model, 0) + 1

    def forget_version(self, model: str, version: int) -> None:
        """Drop what is said about a version that no longer exists; what it has counted goes with it."""
        key = VersionKey(model, str(version))
        tables = self.tables
        tables.states.pop(key, None)
        tables.loads.pop(key, None)
        for batch in [batch for batch in tables.batches if batch[:2] == key]:
            del tables.batches[batch]

    def snapshot(self) -> Snapshot:
        """All of it as plain data, for another process to merge with its own."""
        return dump(self.tables, self.process)

    def share(self, peers: "Peers") -> None:
        """Speak for `peers` too on both pages: those of `pages`."""
        from services.telemetry.merged import Pages

        self.pages = Pages(peers, self._gpus)

    def render(self) -> tuple[bytes, str]:
        """The text exposition, Triton's names included, and its content type."""
        from prometheus_client import generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        own = generate_latest(self.registry)
        return own + triton_page.exposition(self.tables, self._gpus.read()), CONTENT_TYPE_LATEST

    def render_tensorflow_serving(self) -> tuple[bytes, str]:
        """The names of TensorFlow Serving's Prometheus page, and its content type."""
        return tfs_page.exposition(self.tables), tfs_page.CONTENT_TYPE

    def families(self) -> "Iterator[Metric]":
        """Every series of ours as prometheus_client's families."""
        from services.telemetry.families import families

        return families(self.tables, self._gpus.read())
