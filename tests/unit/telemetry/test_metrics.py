import pytest

from services.telemetry.exchange import Exchange
from services.telemetry.histogram import Histogram, RequestSeries
from services.telemetry.metrics import Metrics
from services.telemetry.tables import CODE_NAMES


def lines(metrics: Metrics) -> dict[str, float]:
    text = metrics.render()[0].decode()
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


class Answered:
    """The engine's word on one inference."""

    queue_us, compute_us, batch_rows = 300.0, 2000.0, 4


def count(metrics: Metrics, protocol: str, method: str, model: str, version: int | None, code: int) -> Exchange:
    """One request that came and went."""
    exchange = Exchange(metrics, protocol, method, (), 100)
    exchange.decoded(model)
    if version is not None:
        exchange.inferred(Answered(), version)
    exchange.finish(code, 10)
    return exchange


def test_a_histogram_counts_cumulatively_up_to_each_bound():
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("10.0", 3), ("+Inf", 4)]
    assert histogram.count == 4
    assert histogram.total == 106.5


def test_requests_are_counted_by_all_their_labels():
    metrics = Metrics()
    metrics.track_version("m", 3, "AVAILABLE")
    count(metrics, "tfs-grpc", "Predict", "m", 3, 0)
    count(metrics, "tfs-grpc", "Predict", "m", 3, 0)
    count(metrics, "tfs-grpc", "Predict", "m", None, 3)
    samples = lines(metrics)
    ok = 'code="OK",method="Predict",model="m",protocol="tfs-grpc",version="3"'
    bad = 'code="INVALID_ARGUMENT",method="Predict",model="m",protocol="tfs-grpc",version=""'
    assert samples[f"cornet_request_seconds_count{{{ok}}}"] == 2
    assert samples[f"cornet_request_seconds_count{{{bad}}}"] == 1


def test_what_is_kept_and_what_is_counted_add_up():
    histogram = Histogram((1, 10))
    for _ in range(1300):
        histogram.observe(5)
    assert histogram.buckets() == [("1.0", 0), ("10.0", 1300), ("+Inf", 1300)]
    assert histogram.total == 6500


def test_a_value_observed_many_times_counts_as_often():
    histogram = Histogram((1, 10))
    histogram.observe(5, 64)
    histogram.observe(0.5)
    histogram.observe(5, 2)
    assert histogram.buckets() == [("1.0", 1), ("10.0", 67), ("+Inf", 67)]
    assert histogram.total == 330.5


def test_a_run_s_requests_are_counted_alike_one_by_one_and_all_at_once():
    each, together = RequestSeries((0.1, 1, 10)), RequestSeries((0.1, 1, 10))
    run = (13.0, 13.5, 14.0, 0.25)
    each.count_run(3, [10.0] * 3, [2.0] * 3, *run)
    together.count_run(3, [10.0], [2.0], *run)
    for series in (each, together):
        series.count_run(2, [13.75, 13.25], [0.5, 1.5], 15.5, 15.75, 16.25, 0.125)
        series.settle()
    assert [one.dump() for one in (each.seconds, *each.steps)] == [
        one.dump() for one in (together.seconds, *together.steps)
    ]
    assert together.seconds.dump() == ([0, 0, 5, 0], 17.5)
    assert [step.total for step in together.steps] == [3 * 1.0 + 2.0, 8.0, 1.0, 2.5]
    assert together.last_ended_at == 16.25


def test_the_last_answer_is_the_latest_in_whatever_order_they_are_counted():
    series = RequestSeries((0.1, 1, 10))
    series.count_run(1, [12.0], [0.5], 13.0, 13.5, 16.0, 0.25)
    series.count_run(1, [12.0], [0.5], 13.0, 13.5, 14.0, 0.25)
    series.settle()
    assert series.last_ended_at == 16.0
    for ended in (15.0, 18.0, 17.0):
        series.kept += (12.0, 0.5, 13.5, ended, 0.0, 250.0, 1.0, 1.0)
    series.settle()
    assert series.last_ended_at == 18.0


def test_a_turn_that_comes_late_is_no_part_of_the_decoding():
    metrics = Metrics()
    exchange = Exchange(metrics, "oip-grpc", "ModelInfer", ())
    exchange.started_at -= 5.0  # the others of its read took that long
    exchange.begun_at = exchange.started_at + 5.0
    exchange.decoded("m")
    exchange.inferred(Answered(), 1)
    exchange.finish(0)
    (series,) = metrics.tables.requests.values()
    series.settle()
    assert series.seconds.total > 5.0 > series.steps[0].total == pytest.approx(exchange.decode_s)


def test_a_part_of_the_bounds_shows_the_same_counts_in_another_unit():
    histogram = Histogram((0.001, 0.002, 0.004))
    for value in (0.0005, 0.0015, 0.003):
        histogram.observe(value)
    assert histogram.buckets((0.002,), 1e6) == [("2000.0", 2), ("+Inf", 3)]


def test_an_inference_has_its_phases_and_their_sum_is_not_more_than_the_whole():
    metrics = Metrics()
    metrics.track_version("m", 3, "AVAILABLE")
    exchange = count(metrics, "tfs-grpc", "Predict", "m", 3, 0)
    decode, queue, compute, encode = exchange.phases or ()
    labels = 'method="Predict",model="m",phase="{}",protocol="tfs-grpc",version="3"'
    samples = lines(metrics)
    for phase, seconds in (("decode", decode), ("queue", queue), ("compute", compute), ("encode", encode)):
        assert samples[f"cornet_request_phase_seconds_sum{{{labels.format(phase)}}}"] == pytest.approx(seconds)
    assert (queue, compute) == pytest.approx((0.0003, 0.002))
    assert decode + encode <= exchange.ended_at - exchange.started_at


def test_what_is_no_inference_has_no_phases():
    metrics = Metrics()
    assert count(metrics, "http", "livez", "", None, 0).phases is None
    assert not [name for name in lines(metrics) if name.startswith("cornet_request_phase_seconds")]


def test_a_protocol_s_requests_in_flight_and_bytes_are_counted():
    metrics = Metrics()
    count(metrics, "tfs-grpc", "Predict", "", None, 3)
    Exchange(metrics, "tfs-grpc", "Predict", ())
    samples = lines(metrics)
    assert samples['cornet_requests_in_flight{protocol="tfs-grpc"}'] == 1
    assert samples['cornet_received_bytes_total{protocol="tfs-grpc"}'] == 100
    assert samples['cornet_sent_bytes_total{protocol="tfs-grpc"}'] == 10


def test_requests_that_the_batcher_gave_up_are_counted_by_the_reason():
    metrics = Metrics()
    batch = metrics.batch("m", 1, "serving_default")
    batch.rejected, batch.expired, batch.cancelled, batch.shut_down = 1, 2, 3, 4
    batch.waiting = lambda: 5
    samples = lines(metrics)
    for reason, number in (("queue_full", 1), ("expired", 2), ("cancelled", 3), ("shutting_down", 4)):
        labels = f'{{model="m",reason="{reason}",signature="serving_default",version="1"}}'
        assert samples["cornet_unserved_total" + labels] == number
    assert samples['cornet_queue_requests{model="m",signature="serving_default",version="1"}'] == 5


def test_names_that_clients_invent_make_no_new_series():
    metrics = Metrics()
    metrics.track_version("m", 1, "AVAILABLE")
    for i in range(100):
        count(metrics, "oip-http", "infer", f"invented-{i}", None, 5)
        count(metrics, "oip-http", "infer", "m", i + 2, 5)
    counts = {name: value for name, value in lines(metrics).items() if name.startswith("cornet_request_seconds_count")}
    assert sorted(counts.values()) == [100, 100]
    assert 'model="unknown"' in next(iter(counts))


def test_a_batcher_records_to_series_of_its_own():
    metrics = Metrics()
    batch = metrics.batch("m", 1, "serving_default")
    batch.queue_seconds.observe(0.001)
    batch.runs.kept += (7, 8, 0.002)
    batch.depth = lambda: 5
    samples = lines(metrics)
    labels = '{model="m",signature="serving_default",version="1"}'
    assert samples["cornet_queue_rows" + labels] == 5
    assert samples["cornet_batch_rows_sum" + labels] == 7
    assert samples["cornet_compute_seconds_count" + labels] == 1
    assert samples["cornet_queue_seconds_count" + labels] == 1


def test_versions_have_a_state_a_load_time_and_a_provider():
    metrics = Metrics()
    metrics.track_version("m", 1, "LOADING")
    metrics.track_version("m", 1, "AVAILABLE")
    metrics.track_load("m", 1, 0.25, "CPUExecutionProvider", warm_up_seconds=0.125)
    metrics.track_load_failure("m")
    samples = lines(metrics)
    assert samples['cornet_model_state{model="m",state="AVAILABLE",version="1"}'] == 1
    assert 'cornet_model_state{model="m",state="LOADING",version="1"}' not in samples
    assert samples['cornet_model_load_seconds{model="m",version="1"}'] == 0.25
    assert samples['cornet_model_warm_up_seconds{model="m",version="1"}'] == 0.125
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
