"""Prometheus metrics of one process.

    metrics = Metrics()
    metrics.observe_request("tfs-grpc", "Predict", "regressor", 3, 0, 0.0021)
    body, content_type = metrics.render()

The values behind the request and batch series are plain Python numbers, turned into prometheus_client's families when
somebody scrapes: an observation then costs a dictionary lookup and a bisection, where the library's own children take a
lock per value. Every call comes from the event loop's thread.

Labels are bounded: a model name that no client invented (`track_version` has seen it), else `unknown`; the protocol and
method names are the front ends' own constants.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version as distribution_version
from time import time

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CODE_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Names of the canonical codes, by their number."""

_SECONDS = (
    *(
        1e-5,
        2.5e-5,
        5e-5,
        1e-4,
        2.5e-4,
        5e-4,
        1e-3,
        2.5e-3,
        5e-3,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1.0,
        2.5,
        5.0,
        10.0,
    ),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_UNKNOWN = "unknown"
_MODEL_LABELS = ("model", "version")
_BATCH_LABELS = ("model", "version", "signature")
_REQUEST_LABELS = ("protocol", "method", "model", "version", "code")


class Histogram:
    """Counts of observations at most as large as each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format wants them."""
        reached, rows = 0, []
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True):
            reached += count
            rows.append((bound, float(reached)))
        return rows


class BatchMetrics:
    """The bound series of one (model, version, signature): nothing is looked up per batch."""

    __slots__ = ("compute_seconds", "depth", "queue_seconds", "rejected", "rows")

    def __init__(self) -> None:
        self.queue_seconds = Histogram(_SECONDS)
        self.compute_seconds = Histogram(_SECONDS)
        self.rows = Histogram(_ROWS)
        self.rejected = 0
        self.depth: Callable[[], int] = lambda: 0


class Metrics:
    """All series of one process, in a registry of their own. `registry` may be given to add series beside them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._requests: dict[tuple[str, str, str, int | None, int], Histogram] = {}
        self._batches: dict[tuple[str, str, str], BatchMetrics] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._load_seconds: dict[tuple[str, str], float] = {}
        self._load_failures: dict[str, int] = {}
        self._providers: dict[tuple[str, str], str] = {}
        self._models: set[str] = set()
        self._started = time()
        self.registry.register(_Families(self.families))
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self.registry)

    def observe_request(
        self, protocol: str, method: str, model: str, version: int | None, code: int, seconds: float
    ) -> None:
        """Count one answered request. `version` is the one that answered, None where none did; `code` a canonical code."""
        histogram = self._requests.get((protocol, method, model, version, code))
        if histogram is None:
            if model not in self._models:
                model = _UNKNOWN if model else ""
                version = None
            elif version is not None and (model, str(version)) not in self._states:
                version = None
            histogram = self._requests.setdefault((protocol, method, model, version, code), Histogram(_SECONDS))
        histogram.observe(seconds)

    def batch(self, model: str, version: int, signature: str) -> BatchMetrics:
        """The series a batcher records to."""
        return self._batches.setdefault((model, str(version), signature), BatchMetrics())

    def track_version(self, model: str, version: int, state: str) -> None:
        """Record the state a version entered, and let requests be counted under its name."""
        self._models.add(model)
        self._states[model, str(version)] = state

    def track_load(self, model: str, version: int, seconds: float, provider: str) -> None:
        """Record how long a version took to become available, and what runs it."""
        self._load_seconds[model, str(version)] = seconds
        self._providers[model, str(version)] = provider

    def track_load_failure(self, model: str) -> None:
        self._load_failures[model] = self._load_failures.get(model, 0) + 1

    def forget_version(self, model: str, version: int) -> None:
        """Drop what is said about a version that no longer exists; what it has counted goes with it."""
        key = (model, str(version))
        for table in (self._states, self._load_seconds, self._providers):
            table.pop(key, None)
        for batch in [batch for batch in self._batches if batch[:2] == key]:
            del self._batches[batch]

    def render(self) -> tuple[bytes, str]:
        """The text exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def families(self) -> Iterator[Metric]:
        """Every series of ours as prometheus_client's families."""
        build = InfoMetricFamily("cornet_build", "The cornet that runs.")
        build.add_metric([], {"version": distribution_version("cornet")})
        yield build
        yield GaugeMetricFamily(
            "cornet_start_time_seconds", "When the process started, Unix time.", value=self._started
        )
        yield self._request_family()
        yield from self._batch_families()
        yield from self._version_families()

    def _request_family(self) -> Metric:
        family = HistogramMetricFamily(
            "cornet_request_seconds",
            "Requests by their answer, and the seconds from their arrival to it. _count is the number of requests.",
            labels=_REQUEST_LABELS,
        )
        for (protocol, method, model, version, code), histogram in self._requests.items():
            labels = [protocol, method, model, "" if version is None else str(version), CODE_NAMES[code]]
            family.add_metric(labels, histogram.buckets(), histogram.total)
        return family

    def _batch_families(self) -> Iterator[Metric]:
        queue = HistogramMetricFamily(
            "cornet_queue_seconds", "Seconds a request waited for its batch.", labels=_BATCH_LABELS
        )
        compute = HistogramMetricFamily("cornet_compute_seconds", "Seconds of one batch's run.", labels=_BATCH_LABELS)
        rows = HistogramMetricFamily("cornet_batch_rows", "Rows per batch that ran.", labels=_BATCH_LABELS)
        depth = GaugeMetricFamily("cornet_queue_rows", "Rows that wait for a batch.", labels=_BATCH_LABELS)
        rejected = CounterMetricFamily("cornet_rejected", "Requests refused by a full queue.", labels=_BATCH_LABELS)
        for labels, batch in self._batches.items():
            queue.add_metric(labels, batch.queue_seconds.buckets(), batch.queue_seconds.total)
            compute.add_metric(labels, batch.compute_seconds.buckets(), batch.compute_seconds.total)
            rows.add_metric(labels, batch.rows.buckets(), batch.rows.total)
            depth.add_metric(labels, batch.depth())
            rejected.add_metric(labels, batch.rejected)
        yield from (queue, compute, rows, depth, rejected)

    def _version_families(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "cornet_model_state", "1 for the state a version is in.", labels=(*_MODEL_LABELS, "state")
        )
        for key, name in self._states.items():
            state.add_metric((*key, name), 1)
        loads = GaugeMetricFamily(
            "cornet_model_load_seconds", "Seconds a version took to load and warm up.", labels=_MODEL_LABELS
        )
        for key, seconds in self._load_seconds.items():
            loads.add_metric(key, seconds)
        failures = CounterMetricFamily("cornet_model_load_failures", "Loads that failed.", labels=("model",))
        for model, count in self._load_failures.items():
            failures.add_metric((model,), count)
        providers = GaugeMetricFamily(
            "cornet_model_provider", "1 for what really runs a version.", labels=(*_MODEL_LABELS, "provider")
        )
        for key, name in self._providers.items():
            providers.add_metric((*key, name), 1)
        yield from (state, loads, failures, providers)


class _Families(Collector):
    """What prometheus_client's registry asks at each scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()
