"""cornet's own metrics, as prometheus_client's families, from the tables at scrape."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version as distribution_version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services import errors
from services.telemetry.bounds import SECONDS
from services.telemetry.gpu import GpuReading
from services.telemetry.tables import CODE_NAMES, PHASES, Tables

_VERSION_LABELS = ("model", "version")
_BATCH_LABELS = ("model", "version", "signature")
_REQUEST_LABELS = ("protocol", "method", "model", "version")


class Families(Collector):
    """What prometheus_client's registry asks at each scrape."""

    def __init__(self, collected: Callable[[], Iterable[Metric]]) -> None:
        self._collected = collected

    def collect(self) -> Iterable[Metric]:
        return self._collected()


def families(tables: Tables, gpus: Sequence[GpuReading]) -> Iterator[Metric]:
    """Every family; GPU ones where there is a GPU."""
    build = InfoMetricFamily("cornet_build", "The cornet that runs.")
    build.add_metric([], {"version": distribution_version("cornet"), "python": platform.python_version()})
    yield build
    yield GaugeMetricFamily("cornet_start_time_seconds", "When the process started, Unix time.", value=tables.started)
    yield from _requests(tables)
    yield from _traffic(tables)
    yield from _batches(tables)
    yield from _versions(tables)
    if tables.request_log:
        yield from _request_log(tables)
    if gpus:
        yield from _gpus(gpus)


def _requests(tables: Tables) -> Iterator[Metric]:
    whole = HistogramMetricFamily(
        "cornet_request_seconds",
        "Requests by their answer, and the seconds from their arrival to it. _count is the number of requests.",
        labels=(*_REQUEST_LABELS, "code"),
    )
    phases = HistogramMetricFamily(
        "cornet_request_phase_seconds",
        "Seconds of an answered inference's phases: decode, queue, compute (its batch's run), encode.",
        labels=(*_REQUEST_LABELS, "phase"),
    )
    for key, series in tables.requests.items():
        series.settle()
        labels = [key.protocol, key.method, key.model, key.version]
        whole.add_metric([*labels, CODE_NAMES[key.code]], series.seconds.buckets(SECONDS), series.seconds.total)
        if key.code != errors.OK or not series.steps[0].count:
            continue
        for phase, histogram in zip(PHASES, series.steps, strict=True):
            phases.add_metric([*labels, phase], histogram.buckets(SECONDS), histogram.total)
    yield from (whole, phases)


def _traffic(tables: Tables) -> Iterator[Metric]:
    flight = GaugeMetricFamily(
        "cornet_requests_in_flight", "Requests that arrived and have no answer yet.", labels=("protocol",)
    )
    received = CounterMetricFamily(
        "cornet_received_bytes", "Bytes of requests' bodies, after decompression.", labels=("protocol",)
    )
    sent = CounterMetricFamily("cornet_sent_bytes", "Bytes of answers' bodies.", labels=("protocol",))
    for protocol, arrived in tables.arrived.items():
        series = [series for key, series in tables.requests.items() if key.protocol == protocol]
        for one in series:
            one.settle()
        flight.add_metric((protocol,), arrived - sum(one.seconds.count for one in series))
        received.add_metric((protocol,), sum(one.received_bytes for one in series))
        sent.add_metric((protocol,), sum(one.sent_bytes for one in series))
    yield from (flight, received, sent)


def _batches(tables: Tables) -> Iterator[Metric]:
    queue = HistogramMetricFamily(
        "cornet_queue_seconds", "Seconds a request waited for its batch.", labels=_BATCH_LABELS
    )
    compute = HistogramMetricFamily("cornet_compute_seconds", "Seconds of one batch's run.", labels=_BATCH_LABELS)
    rows = HistogramMetricFamily("cornet_batch_rows", "Rows per batch that ran.", labels=_BATCH_LABELS)
    depth = GaugeMetricFamily("cornet_queue_rows", "Rows that wait for a batch.", labels=_BATCH_LABELS)
    waiting = GaugeMetricFamily("cornet_queue_requests", "Requests that wait for a batch.", labels=_BATCH_LABELS)
    unserved = CounterMetricFamily(
        "cornet_unserved",
        "Requests that the batcher gave up: queue_full, expired, cancelled, shutting_down.",
        labels=(*_BATCH_LABELS, "reason"),
    )
    for labels, batch in tables.batches.items():
        queue.add_metric(labels, batch.queue_seconds.buckets(SECONDS), batch.queue_seconds.total)
        compute.add_metric(labels, batch.runs.seconds.buckets(SECONDS), batch.runs.seconds.total)
        rows.add_metric(labels, batch.runs.rows.buckets(), batch.runs.rows.total)
        depth.add_metric(labels, batch.depth())
        waiting.add_metric(labels, batch.waiting())
        unserved.add_metric((*labels, "queue_full"), batch.rejected)
        unserved.add_metric((*labels, "expired"), batch.expired)
        unserved.add_metric((*labels, "cancelled"), batch.cancelled)
        unserved.add_metric((*labels, "shutting_down"), batch.shut_down)
    yield from (queue, compute, rows, depth, waiting, unserved)


def _versions(tables: Tables) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "cornet_model_state", "1 for each state that a worker has a version in.", labels=(*_VERSION_LABELS, "state")
    )
    for key, name in (*tables.states.items(), *sorted(tables.other_states)):
        state.add_metric((*key, name), 1)
    loads = GaugeMetricFamily(
        "cornet_model_load_seconds", "Seconds a version took to load and warm up.", labels=_VERSION_LABELS
    )
    warm_ups = GaugeMetricFamily(
        "cornet_model_warm_up_seconds", "Seconds of a version's warm-up runs.", labels=_VERSION_LABELS
    )
    providers = GaugeMetricFamily(
        "cornet_model_provider", "1 for what really runs a version.", labels=(*_VERSION_LABELS, "provider")
    )
    for key, load in tables.loads.items():
        loads.add_metric(key, load.seconds)
        warm_ups.add_metric(key, load.warm_up_seconds)
        providers.add_metric((*key, load.provider), 1)
    failures = CounterMetricFamily("cornet_model_load_failures", "Loads that failed.", labels=("model",))
    for model, count in tables.load_failures.items():
        failures.add_metric((model,), count)
    yield from (state, loads, warm_ups, failures, providers)


def _request_log(tables: Tables) -> Iterator[Metric]:
    counts = tables.request_log
    yield CounterMetricFamily(
        "cornet_request_log_written", "Records of the request log that are in its files.", value=counts["written"]
    )
    dropped = CounterMetricFamily(
        "cornet_request_log_dropped",
        "Sampled records that were dropped: queue_full (the disk was too slow), failed (it refused them).",
        labels=("reason",),
    )
    for reason in ("queue_full", "failed"):
        dropped.add_metric((reason,), counts[reason])
    yield dropped


def _gpus(gpus: Sequence[GpuReading]) -> Iterator[Metric]:
    labels = ("gpu", "uuid")
    utilization = GaugeMetricFamily(
        "cornet_gpu_utilization_ratio", "Share of the last sample period in which the GPU ran.", labels=labels
    )
    total = GaugeMetricFamily("cornet_gpu_memory_total_bytes", "Memory of the GPU.", labels=labels)
    used = GaugeMetricFamily("cornet_gpu_memory_used_bytes", "Memory of the GPU in use, by anybody.", labels=labels)
    for gpu in gpus:
        values = (
            (utilization, gpu.utilization),
            (total, gpu.memory_total_bytes),
            (used, gpu.memory_used_bytes),
        )
        for family, value in values:
            if value is not None:
                family.add_metric((str(gpu.index), gpu.uuid), value)
    yield from (utilization, total, used)
