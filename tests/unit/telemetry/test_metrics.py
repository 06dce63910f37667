import pytest

from services.telemetry.metrics import CODE_NAMES, Histogram, Metrics


def lines(metrics: Metrics) -> dict[str, float]:
    text = metrics.render()[0].decode()
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def test_a_histogram_counts_cumulatively_up_to_each_bound():
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("10.0", 3), ("+Inf", 4)]
    assert histogram.total == 106.5


def test_requests_are_counted_by_all_their_labels():
    metrics = Metrics()
    metrics.track_version("m", 3, "AVAILABLE")
    metrics.observe_request("tfs-grpc", "Predict", "m", 3, 0, 0.002)
    metrics.observe_request("tfs-grpc", "Predict", "m", 3, 0, 0.004)
    metrics.observe_request("tfs-grpc", "Predict", "m", None, 3, 0.001)
    samples = lines(metrics)
    ok = 'code="OK",method="Predict",model="m",protocol="tfs-grpc",version="3"'
    bad = 'code="INVALID_ARGUMENT",method="Predict",model="m",protocol="tfs-grpc",version=""'
    assert samples[f"cornet_request_seconds_count{{{ok}}}"] == 2
    assert samples[f"cornet_request_seconds_sum{{{ok}}}"] == pytest.approx(0.006)
    assert samples[f"cornet_request_seconds_count{{{bad}}}"] == 1


def test_names_that_clients_invent_make_no_new_series():
    metrics = Metrics()
    metrics.track_version("m", 1, "AVAILABLE")
    for i in range(100):
        metrics.observe_request("oip-http", "infer", f"invented-{i}", None, 5, 0.001)
        metrics.observe_request("oip-http", "infer", "m", i + 2, 5, 0.001)
    counts = {name: value for name, value in lines(metrics).items() if name.startswith("cornet_request_seconds_count")}
    assert sorted(counts.values()) == [100, 100]
    assert 'model="unknown"' in next(iter(counts))


def test_a_batcher_records_to_series_of_its_own():
    metrics = Metrics()
    batch = metrics.batch("m", 1, "serving_default")
    batch.rows.observe(7)
    batch.queue_seconds.observe(0.001)
    batch.compute_seconds.observe(0.002)
    batch.rejected += 1
    batch.depth = lambda: 5
    samples = lines(metrics)
    labels = '{model="m",signature="serving_default",version="1"}'
    assert samples["cornet_queue_rows" + labels] == 5
    assert samples["cornet_rejected_total" + labels] == 1
    assert samples["cornet_batch_rows_sum" + labels] == 7
    assert samples["cornet_compute_seconds_count" + labels] == 1
    assert samples["cornet_queue_seconds_count" + labels] == 1


def test_versions_have_a_state_a_load_time_and_a_provider():
    metrics = Metrics()
    metrics.track_version("m", 1, "LOADING")
    metrics.track_version("m", 1, "AVAILABLE")
    metrics.track_load("m", 1, 0.25, "CPUExecutionProvider")
    metrics.track_load_failure("m")
    samples = lines(metrics)
    assert samples['cornet_model_state{model="m",state="AVAILABLE",version="1"}'] == 1
    assert 'cornet_model_state{model="m",state="LOADING",version="1"}' not in samples
    assert samples['cornet_model_load_seconds{model="m",version="1"}'] == 0.25
    assert samples['cornet_model_provider{model="m",provider="CPUExecutionProvider",version="1"}'] == 1
    assert samples['cornet_model_load_failures_total{model="m"}'] == 1


def test_a_forgotten_version_leaves_the_exposition():
    metrics = Metrics()
    metrics.track_version("m", 1, "END")
    metrics.batch("m", 1, "serving_default")
    metrics.forget_version("m", 1)
    assert not [name for name in lines(metrics) if 'version="1"' in name and 'model="m"' in name]


def test_the_process_and_the_build_are_described():
    samples = lines(Metrics())
    assert "cornet_start_time_seconds" in samples
    assert any(name.startswith("cornet_build_info") for name in samples)
    assert "process_resident_memory_bytes" in samples


def test_two_processes_parts_do_not_share_a_registry():
    one, other = Metrics(), Metrics()
    one.track_version("m", 1, "AVAILABLE")
    assert not [name for name in lines(other) if name.startswith("cornet_model_state")]


def test_the_content_type_is_prometheus_s():
    assert Metrics().render()[1].startswith("text/plain; version=")


def test_every_canonical_code_has_its_name():
    assert (CODE_NAMES[0], CODE_NAMES[8], CODE_NAMES[16]) == ("OK", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")
