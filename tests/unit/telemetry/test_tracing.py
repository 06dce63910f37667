"""Spans of requests, as an exporter in memory receives them."""

import pytest

from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Answered:
    queue_us, compute_us, batch_rows = 300.0, 2000.0, 4


def spans(headers: object, code: int = 0) -> dict[str, object]:
    """What one request leaves, by the spans' names."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from services.telemetry.tracing import Tracer

    exporter = export.InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    metrics = Metrics(gpus=False)
    metrics.listeners.append(tracer.listen)
    exchange = Exchange(metrics, "tfs-grpc", "Predict", headers, 100)
    exchange.decoded("m")
    if code == 0:
        exchange.inferred(Answered(), 3)
    exchange.finish(code, 10)
    finished = {span.name: span for span in exporter.get_finished_spans()}
    tracer.close()
    return finished


@pytest.mark.parametrize("kind", ["metadata", "headers"])
def test_a_caller_s_context_is_the_parent(kind: str):
    value = f"00-{TRACE}-{CALLER}-01"
    headers = (("traceparent", value),) if kind == "metadata" else {b"traceparent": value.encode()}
    span = spans(headers)["tfs-grpc Predict"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == CALLER


def test_a_caller_who_does_not_sample_leaves_no_span():
    assert not spans((("traceparent", f"00-{TRACE}-{CALLER}-00"),))


def test_a_malformed_context_begins_a_trace_of_its_own():
    assert spans((("traceparent", "00-zz-zz-01"),))["tfs-grpc Predict"].parent is None


def test_the_phases_are_children_that_last_as_long_as_they_did():
    found = spans(())
    whole = found.pop("tfs-grpc Predict")
    assert set(found) == {"decode", "queue", "compute", "encode"}
    assert {span.parent.span_id for span in found.values()} == {whole.context.span_id}
    assert found["queue"].end_time - found["queue"].start_time == pytest.approx(300_000, abs=2)
    assert found["compute"].start_time == pytest.approx(found["queue"].end_time, abs=1000)


def test_a_span_says_who_answered():
    attributes = spans((("x-request-id", "abc"),))["tfs-grpc Predict"].attributes
    assert attributes["cornet.request_id"] == "abc"
    assert (attributes["cornet.model"], attributes["cornet.version"], attributes["cornet.code"]) == ("m", 3, "OK")


def test_a_failed_request_is_an_error_without_phases():
    found = spans((), code=8)
    assert set(found) == {"tfs-grpc Predict"}
    assert not found["tfs-grpc Predict"].status.is_ok
