"""OpenTelemetry spans of the requests, made after the fact: one per request, with a child per phase.

    tracer = Tracer.otlp("http://localhost:4318/v1/traces")     # or None: as the OTEL_* variables say
    metrics.listeners.append(tracer.listen)
    ...
    tracer.close()                                               # sends what is left

Nothing of this is imported, and no request pays for it, unless an exporter is configured. A caller's W3C `traceparent` (HTTP
header or gRPC metadata) is the parent of the request's span, and decides, where the sampler is the default one, whether it
is kept. The SDK exports in a thread of its own, drops what its bounded queue cannot hold, and reads its own settings
(`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, ...) from the environment.
"""

from collections.abc import Callable
from threading import Timer
from time import perf_counter, time_ns
from typing import Any, Self

from services import errors
from services.telemetry.exchange import Exchange
from services.telemetry.tables import CODE_NAMES, PHASES

_NS = 1e9
_CONTEXT = ("traceparent", "tracestate")


class Tracer:
    """Turns every request that ends into spans. `provider` is an OpenTelemetry SDK TracerProvider, whose end is `close`."""

    def __init__(self, provider: Any, give_up: Callable[[], object] = lambda: None) -> None:
        """`give_up` makes an export that tries again and again stop doing so."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("cornet")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def otlp(cls, endpoint: str | None) -> Self:
        """Spans go by OTLP over HTTP to `endpoint`, or where the OTEL_* variables say.

        Raises ImportError where the `trace` extra is not installed.
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource({SERVICE_NAME: "cornet"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, exporter.shutdown)

    def listen(self, exchange: Exchange) -> None:
        """Record an ended request; a listener of `Metrics`."""
        from opentelemetry import trace

        offset_ns = time_ns() - int(perf_counter() * _NS)
        carrier = {name: value for name in _CONTEXT if (value := exchange.header(name)) is not None}
        parent = self._propagator.extract(carrier)
        start_ns = offset_ns + int(exchange.started_at * _NS)
        span = self._tracer.start_span(
            f"{exchange.protocol} {exchange.operation}",
            parent,
            trace.SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=start_ns,
        )
        if span.is_recording():
            if exchange.code != errors.OK:
                span.set_status(trace.StatusCode.ERROR, CODE_NAMES[exchange.code])
            self._phases(exchange, trace.set_span_in_context(span, parent), offset_ns)
        span.end(offset_ns + int(exchange.ended_at * _NS))

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is left, and give up after `timeout_s` where nobody takes it. Blocks: call it in a thread."""
        timer = Timer(timeout_s, self._give_up)
        timer.start()
        self._provider.shutdown()
        timer.cancel()
        timer.join()

    def _phases(self, exchange: Exchange, context: Any, offset_ns: int) -> None:
        """A child per phase. Encoding lies at the end; the queue follows decoding, and the run the queue."""
        phases = exchange.phases
        if phases is None:
            return
        decode_s, queue_s, compute_s, encode_s = phases
        queued = exchange.decoded_at
        starts = (queued - decode_s, queued, queued + queue_s, exchange.inferred_at)
        for name, start, seconds in zip(PHASES, starts, (decode_s, queue_s, compute_s, encode_s), strict=True):
            start_ns = offset_ns + int(start * _NS)
            self._tracer.start_span(name, context, start_time=start_ns).end(start_ns + int(seconds * _NS))


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "cornet.request_id": exchange.request_id,
        "cornet.protocol": exchange.protocol,
        "cornet.method": exchange.operation,
        "cornet.model": exchange.model,
        "cornet.code": CODE_NAMES[exchange.code],
        "cornet.received_bytes": exchange.received_bytes,
        "cornet.sent_bytes": exchange.sent_bytes,
    }
    if exchange.version is not None:
        attributes["cornet.version"] = exchange.version
    if exchange.response is not None:
        attributes["cornet.batch_rows"] = exchange.response.batch_rows
    return attributes
