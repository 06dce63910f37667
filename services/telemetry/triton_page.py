"""Triton's metric names, for the dashboards that graph them: labels `{model, version}`, microseconds, no `_total`.

What they mean here, where the two servers differ: `compute_input` is decoding and `compute_output` encoding of the
protocol's message; a request is counted whatever its protocol; of one that fails, no version is known (`version=""`).
A request's queue time and compute time are those of its batch, as there, and `nv_energy_consumption` counts since the
driver was loaded.

Source: names, types and labels as in triton-inference-server/core, `src/metrics.cc` and `src/metric_model_reporter.cc`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from services import errors
from services.telemetry.exposition import Page
from services.telemetry.gpu import GpuReading
from services.telemetry.tables import RequestKey, Tables, VersionKey

_REASONS: Final = {
    errors.RESOURCE_EXHAUSTED: "REJECTED",
    errors.UNAVAILABLE: "REJECTED",
    errors.DEADLINE_EXCEEDED: "REJECTED",
    errors.CANCELLED: "CANCELED",
    errors.UNKNOWN: "BACKEND",
    errors.INTERNAL: "BACKEND",
    errors.DATA_LOSS: "BACKEND",
}
_ALL_REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

_DURATIONS: Final = (
    ("nv_inference_queue_duration_us", "Time requests waited for their batch", 1),
    ("nv_inference_compute_input_duration_us", "Time requests took to be decoded", 0),
    ("nv_inference_compute_infer_duration_us", "Time the batches of requests took to run", 2),
    ("nv_inference_compute_output_duration_us", "Time answers took to be encoded", 3),
)
"""Name, help, and the phase it sums."""

_US: Final = 1e6

_INFERENCE: Final = frozenset(
    (("tfs-grpc", "Predict"), ("tfs-rest", "predict"), ("oip-grpc", "ModelInfer"), ("oip-rest", "infer"))
)


def exposition(tables: Tables, gpus: Sequence[GpuReading] = ()) -> bytes:
    """The families of `nv_inference_*` and, where there is a GPU, `nv_gpu_*`, as text."""
    page = Page()
    _requests(page, tables)
    _durations(page, tables)
    _batches(page, tables)
    page.plain(
        "nv_model_load_duration_secs",
        "gauge",
        "Time a version took to load, in seconds",
        [(key._asdict(), load.seconds) for key, load in tables.loads.items()],
    )
    _gpus(page, gpus)
    return page.encode()


def is_inference(key: RequestKey) -> bool:
    """Whether a kind of request is an inference of a model that is known: those are what both servers count."""
    known = key.model not in ("", "unknown")
    return known and (key.protocol == "typed" or (key.protocol, key.method) in _INFERENCE)


def _requests(page: Page, tables: Tables) -> None:
    succeeded: dict[VersionKey, float] = dict.fromkeys(tables.loads, 0.0)
    failed: dict[VersionKey, dict[str, float]] = {key: dict.fromkeys(_ALL_REASONS, 0.0) for key in tables.loads}
    for key, series in tables.requests.items():
        if not is_inference(key):
            continue
        version = VersionKey(key.model, key.version)
        series.settle()
        if key.code == errors.OK:
            succeeded[version] = succeeded.get(version, 0.0) + series.seconds.count
        else:
            reasons = failed.setdefault(version, dict.fromkeys(_ALL_REASONS, 0.0))
            reasons[_REASONS.get(key.code, "OTHER")] += series.seconds.count
    page.plain(
        "nv_inference_request_success",
        "counter",
        "Number of inference requests that succeeded",
        [(key._asdict(), count) for key, count in succeeded.items()],
    )
    page.plain(
        "nv_inference_request_failure",
        "counter",
        "Number of inference requests that failed, by reason",
        [
            ({**key._asdict(), "reason": reason}, count)
            for key, reasons in failed.items()
            for reason, count in reasons.items()
        ],
    )


def _durations(page: Page, tables: Tables) -> None:
    """Cumulative time of the requests that succeeded, as there."""
    whole: dict[VersionKey, float] = dict.fromkeys(tables.loads, 0.0)
    phases: dict[VersionKey, list[float]] = {key: [0.0] * 4 for key in tables.loads}
    for key, series in tables.requests.items():
        if key.code != errors.OK or not is_inference(key):
            continue
        series.settle()
        version = VersionKey(key.model, key.version)
        whole[version] = whole.get(version, 0.0) + series.seconds.total
        sums = phases.setdefault(version, [0.0] * 4)
        for place, histogram in enumerate(series.steps):
            sums[place] += histogram.total
    page.plain(
        "nv_inference_request_duration_us",
        "counter",
        "Time requests took in all, in microseconds",
        [(key._asdict(), _whole_us(seconds)) for key, seconds in whole.items()],
    )
    for name, text, place in _DURATIONS:
        samples = [(key._asdict(), _whole_us(sums[place])) for key, sums in phases.items()]
        page.plain(name, "counter", f"{text}, in microseconds", samples)


def _batches(page: Page, tables: Tables) -> None:
    rows: dict[VersionKey, float] = defaultdict(float)
    runs: dict[VersionKey, float] = defaultdict(float)
    waiting: dict[VersionKey, float] = defaultdict(float)
    for key, batch in tables.batches.items():
        version = VersionKey(key.model, key.version)
        rows[version] += batch.runs.rows.total
        runs[version] += batch.runs.rows.count
        waiting[version] += batch.waiting()
    for name, kind, text, values in (
        ("nv_inference_count", "counter", "Number of rows inferred", rows),
        ("nv_inference_exec_count", "counter", "Number of runs of the model", runs),
        ("nv_inference_pending_request_count", "gauge", "Number of requests that wait for their batch", waiting),
    ):
        page.plain(name, kind, text, list(_labelled(values)))


def _labelled(values: Mapping[VersionKey, float]) -> Iterator[tuple[dict[str, str], float]]:
    for key, value in values.items():
        yield key._asdict(), value


def _gpus(page: Page, gpus: Sequence[GpuReading]) -> None:
    for name, kind, text, values in (
        ("nv_gpu_utilization", "gauge", "GPU utilization, 0.0 to 1.0", [gpu.utilization for gpu in gpus]),
        ("nv_gpu_memory_total_bytes", "gauge", "GPU memory, in bytes", [gpu.memory_total_bytes for gpu in gpus]),
        ("nv_gpu_memory_used_bytes", "gauge", "GPU memory in use, in bytes", [gpu.memory_used_bytes for gpu in gpus]),
        ("nv_gpu_power_usage", "gauge", "GPU power, in watts", [gpu.power_watts for gpu in gpus]),
        ("nv_gpu_power_limit", "gauge", "GPU power limit, in watts", [gpu.power_limit_watts for gpu in gpus]),
        ("nv_energy_consumption", "counter", "GPU energy, in joules", [gpu.energy_joules for gpu in gpus]),
    ):
        known = [({"gpu_uuid": gpu.uuid}, v) for gpu, v in zip(gpus, values, strict=True) if v is not None]
        page.plain(name, kind, text, known)


def _whole_us(seconds: float) -> float:
    return float(round(seconds * _US))
