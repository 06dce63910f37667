"""TensorFlow Serving's Prometheus page: its names (with the leading colon), labels, bounds and units.

Inferences of every protocol count: the dashboards ask about the model. `API` is the method as its protocol names it
(`Predict`, `predict`, `ModelInfer`, `infer`), `entrypoint` GRPC or REST, `runtime` what runs the model (an execution
provider), `thread_pool_name` the model whose queue it is. Latencies are microseconds; those of requests are of successes.

What has no counterpart here is left out: examples (`request_example_counts`), `padding_size`, `mlmd_map`, TensorFlow's own
`:tensorflow:core:*`. As there, families have a type and no help.

Source: tensorflow_serving/util/prometheus_exporter.cc, servables/tensorflow/util.cc, batching/batching_session.cc.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from services import errors
from services.telemetry.bounds import ROWS, TFS_LATENCY_S, TFS_QUEUING_S
from services.telemetry.exposition import CONTENT_TYPE, Page
from services.telemetry.histogram import Histogram
from services.telemetry.tables import CODE_NAMES, Tables, VersionKey
from services.telemetry.triton_page import is_inference

__all__ = ["CONTENT_TYPE", "exposition"]

_PREFIX: Final = ":tensorflow:serving:"
_US: Final = 1e6

Labels: TypeAlias = tuple[tuple[str, str], ...]


def exposition(tables: Tables) -> bytes:
    """The page, as text."""
    page = Page()
    counts, latencies, runtimes = _requests(tables)
    _counter(page, "request_count", counts)
    _histograms(page, "request_latency", latencies, TFS_LATENCY_S, _US)
    _histograms(page, "runtime_latency", runtimes, TFS_LATENCY_S, _US)
    _batching(page, tables)
    return page.encode()


def _requests(
    tables: Tables,
) -> tuple[dict[Labels, float], list[tuple[Labels, Histogram]], list[tuple[Labels, Histogram]]]:
    """Numbers by model and status; latencies, and runs' latencies, of the successes."""
    counts: dict[Labels, float] = {}
    latencies: dict[Labels, list[Histogram]] = {}
    runtimes: dict[Labels, list[Histogram]] = {}
    for key, series in tables.requests.items():
        if not is_inference(key):
            continue
        series.settle()
        model = ("model_name", key.model)
        status: Labels = (model, ("status", CODE_NAMES[key.code]))
        counts[status] = counts.get(status, 0.0) + series.seconds.count
        if key.code != errors.OK:
            continue
        api = ("API", key.method)
        entrypoint = "GRPC" if key.protocol.endswith("grpc") else "REST"
        latencies.setdefault((model, api, ("entrypoint", entrypoint)), []).append(series.seconds)
        load = tables.loads.get(VersionKey(key.model, key.version))
        runtime = load.provider if load is not None else ""
        runtimes.setdefault((model, api, ("runtime", runtime)), []).append(series.steps[2])
    return counts, _merged(latencies), _merged(runtimes)


def _batching(page: Page, tables: Tables) -> None:
    """The `batching_session` families: one queue per model there as here."""
    batches = list(tables.batches.values())
    if not batches:
        return
    queues: dict[Labels, list[Histogram]] = {}
    for key, batch in tables.batches.items():
        queues.setdefault((("thread_pool_name", key.model),), []).append(batch.queue_seconds)
    runs: dict[Labels, float] = {(): float(sum(batch.runs.rows.count for batch in batches))}
    _histograms(page, "batching_session:queuing_latency", _merged(queues), TFS_QUEUING_S, _US)
    _counter(page, "batching_session:wrapped_run_count", runs)
    processed = Histogram.merged([batch.runs.padded_rows for batch in batches])
    _histograms(page, "batching_session:processed_batch_size", [((), processed)], ROWS, 1.0)


def _merged(series: Mapping[Labels, list[Histogram]]) -> list[tuple[Labels, Histogram]]:
    return [(labels, Histogram.merged(histograms)) for labels, histograms in series.items()]


def _counter(page: Page, name: str, samples: Mapping[Labels, float]) -> None:
    if samples:
        page.family(_PREFIX + name, "counter")
        for labels, value in samples.items():
            page.sample(_PREFIX + name, dict(labels), value)


def _histograms(
    page: Page, name: str, samples: Iterable[tuple[Labels, Histogram]], bounds: tuple[float, ...], scale: float
) -> None:
    samples = list(samples)
    if samples:
        page.family(_PREFIX + name, "histogram")
        for labels, histogram in samples:
            page.histogram(
                _PREFIX + name, dict(labels), histogram.buckets(bounds, scale), round(histogram.total * scale, 3)
            )
