"""The names that users of TensorFlow Serving and of Triton already graph, held as text to what those servers write."""

import re

import pytest

from services.telemetry.exchange import Exchange
from services.telemetry.gpu import GpuReading
from services.telemetry.metrics import Metrics
from services.telemetry.triton_page import exposition

GPU = GpuReading(0, "GPU-abc", 0.25, 1000, 400, 55.5, 300.0, 12.0)


class Answered:
    queue_us, compute_us, batch_rows = 300.0, 2000.0, 4


@pytest.fixture
def metrics() -> Metrics:
    """Two successes over gRPC, one over REST, three failures of different kinds; two batches of 4 rows."""
    metrics = Metrics(gpus=False)
    metrics.track_version("m", 1, "AVAILABLE")
    metrics.track_load("m", 1, 0.5, "CPUExecutionProvider")
    series = metrics.batch("m", 1, "serving_default")
    for _ in range(2):
        series.runs.kept += (4, 8, 0.002)
        series.queue_seconds.observe(0.0003)
    series.waiting = lambda: 7
    for protocol, method, code in (
        ("tfs-grpc", "Predict", 0),
        ("oip-grpc", "ModelInfer", 0),
        ("tfs-rest", "predict", 0),
        ("tfs-grpc", "Predict", 8),
        ("tfs-grpc", "Predict", 1),
        ("oip-rest", "infer", 3),
        ("tfs-rest", "status", 0),
    ):
        exchange = Exchange(metrics, protocol, method, ())
        exchange.decoded("m")
        if code == 0 and method != "status":
            exchange.inferred(Answered(), 1)
        exchange.finish(code)
    return metrics


def samples(text: bytes) -> dict[str, float]:
    rows = (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def types(text: bytes) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE))


def test_tensorflow_serving_s_page_has_its_families_and_their_types(metrics: Metrics):
    page, content_type = metrics.render_tensorflow_serving()
    assert content_type.startswith("text/plain")
    assert types(page) == {
        ":tensorflow:serving:request_count": "counter",
        ":tensorflow:serving:request_latency": "histogram",
        ":tensorflow:serving:runtime_latency": "histogram",
        ":tensorflow:serving:batching_session:queuing_latency": "histogram",
        ":tensorflow:serving:batching_session:wrapped_run_count": "counter",
        ":tensorflow:serving:batching_session:processed_batch_size": "histogram",
    }


def test_tensorflow_serving_s_requests_count_by_model_and_status(metrics: Metrics):
    page = samples(metrics.render_tensorflow_serving()[0])
    name = ':tensorflow:serving:request_count{{model_name="m",status="{}"}}'
    counts = {status: page[name.format(status)] for status in ("OK", "RESOURCE_EXHAUSTED", "CANCELLED")}
    assert counts == {"OK": 3, "RESOURCE_EXHAUSTED": 1, "CANCELLED": 1}


def test_tensorflow_serving_s_latency_is_of_successes_in_its_own_33_buckets_of_microseconds(metrics: Metrics):
    page = samples(metrics.render_tensorflow_serving()[0])
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    name = f":tensorflow:serving:request_latency_bucket{{{labels},le="
    bounds = [float(key[len(name) + 1 : -2]) for key in page if key.startswith(name)]
    assert len(bounds) == 34
    assert bounds[:-1] == pytest.approx([10 * 1.8**n for n in range(33)])
    assert page[f":tensorflow:serving:request_latency_count{{{labels}}}"] == 1
    assert page[':tensorflow:serving:request_latency_count{model_name="m",API="predict",entrypoint="REST"}'] == 1


def test_tensorflow_serving_s_run_time_is_the_batch_s_in_microseconds(metrics: Metrics):
    page = samples(metrics.render_tensorflow_serving()[0])
    labels = 'model_name="m",API="Predict",runtime="CPUExecutionProvider"'
    assert page[f":tensorflow:serving:runtime_latency_sum{{{labels}}}"] == pytest.approx(2000)


def test_tensorflow_serving_s_batching_counts_runs_padded_rows_and_queue_time(metrics: Metrics):
    page = samples(metrics.render_tensorflow_serving()[0])
    session = ":tensorflow:serving:batching_session:"
    assert page[f"{session}wrapped_run_count"] == 2
    assert page[f'{session}processed_batch_size_bucket{{le="4.0"}}'] == 0
    assert page[f'{session}processed_batch_size_bucket{{le="8.0"}}'] == 2
    assert page[f'{session}queuing_latency_sum{{thread_pool_name="m"}}'] == pytest.approx(600)


def test_triton_s_families_carry_no_suffix(metrics: Metrics):
    text = metrics.render()[0]
    found = {name: kind for name, kind in types(text).items() if name.startswith("nv_")}
    durations = ("request", "queue", "compute_input", "compute_infer", "compute_output")
    assert found == {
        "nv_inference_request_success": "counter",
        "nv_inference_request_failure": "counter",
        "nv_inference_count": "counter",
        "nv_inference_exec_count": "counter",
        **{f"nv_inference_{name}_duration_us": "counter" for name in durations},
        "nv_inference_pending_request_count": "gauge",
        "nv_model_load_duration_secs": "gauge",
    }


def test_triton_s_counts_are_of_requests_rows_and_runs(metrics: Metrics):
    page = samples(metrics.render()[0])
    labels = '{model="m",version="1"}'
    assert page["nv_inference_request_success" + labels] == 3
    assert page["nv_inference_count" + labels] == 8
    assert page["nv_inference_exec_count" + labels] == 2
    assert page["nv_inference_pending_request_count" + labels] == 7
    assert page["nv_model_load_duration_secs" + labels] == 0.5


def test_triton_s_failures_say_why(metrics: Metrics):
    page = samples(metrics.render()[0])
    name = 'nv_inference_request_failure{{model="m",version="{}",reason="{}"}}'
    reasons = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    assert [page[name.format("", reason)] for reason in reasons] == [1, 1, 0, 1]
    assert [page[name.format("1", reason)] for reason in reasons] == [0, 0, 0, 0]


def test_triton_s_durations_sum_over_requests_in_microseconds(metrics: Metrics):
    page = samples(metrics.render()[0])
    labels = '{model="m",version="1"}'
    assert page["nv_inference_queue_duration_us" + labels] == 900
    assert page["nv_inference_compute_infer_duration_us" + labels] == 6000


def test_names_that_clients_invent_are_on_neither_page(metrics: Metrics):
    exchange = Exchange(metrics, "tfs-grpc", "Predict", ())
    exchange.decoded("invented")
    exchange.finish(5)
    assert b"invented" not in metrics.render_tensorflow_serving()[0]
    assert b"unknown" not in exposition(metrics.tables)


def test_a_gpu_has_triton_s_families_and_ours(metrics: Metrics):
    page = samples(exposition(metrics.tables, [GPU]))
    found = {name: value for name, value in page.items() if "GPU-abc" in name}
    assert found == {
        'nv_gpu_utilization{gpu_uuid="GPU-abc"}': 0.25,
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-abc"}': 1000,
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-abc"}': 400,
        'nv_gpu_power_usage{gpu_uuid="GPU-abc"}': 55.5,
        'nv_gpu_power_limit{gpu_uuid="GPU-abc"}': 300,
        'nv_energy_consumption{gpu_uuid="GPU-abc"}': 12,
    }


def test_label_values_are_escaped(metrics: Metrics):
    metrics.track_version('a"b\\c', 1, "AVAILABLE")
    metrics.track_load('a"b\\c', 1, 0.5, "CPUExecutionProvider")
    assert b'model="a\\"b\\\\c"' in exposition(metrics.tables)
