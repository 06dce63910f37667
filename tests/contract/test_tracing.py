"""Traces from a server's front ends to a collector on loopback, and the id that joins them with the log."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import grpc
import pytest

from services.launch import ServerProcess
from services.protocols.messages import ModelInferRequest

collector_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{CALLER}-01"


class Collector:
    """An OTLP endpoint that keeps the spans it is sent."""

    def __init__(self) -> None:
        self._spans: Queue[object] = Queue()
        spans = self._spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                export = collector_pb2.ExportTraceServiceRequest.FromString(body)
                for resource in export.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            spans.put(span)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> list[object]:
        """What has come; to be asked once the server has stopped."""
        found = []
        try:
            while True:
                found.append(self._spans.get_nowait())
        except Empty:
            return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_requests_of_both_front_ends_arrive_as_children_of_their_callers(repository: Path, collector: Collector):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "CORNET_TYPED_ENDPOINTS": "false"}
    with ServerProcess(repository, environment=environment) as server:
        body = json.dumps({"instances": [[1.0]]}).encode()
        request = urllib.request.Request(
            f"{server.http_url}/v1/models/half_plus_two:predict", body, {"traceparent": CONTEXT}
        )
        urllib.request.urlopen(request, timeout=10).close()
        infer(server, ModelInferRequest(model_name="nobody"), ("traceparent", CONTEXT))
        assert server.stop() == 0
    spans = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    parents = {span.name for span in spans if span.parent_span_id.hex() == CALLER}
    assert parents == {"tfs-rest predict", "oip-grpc ModelInfer"}
    assert {"decode", "queue", "compute", "encode"} <= {span.name for span in spans}


def infer(server: ServerProcess, request: object, *metadata: tuple[str, str]) -> dict[str, str]:
    """The trailing metadata of a ModelInfer, which may fail."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(
            request.SerializeToString(), metadata=metadata, timeout=10
        )
        call.exception()
        return dict(call.trailing_metadata())


def test_a_grpc_client_gets_its_request_id_back_with_the_error(server: ServerProcess):
    assert infer(server, ModelInferRequest(model_name="nobody"), ("x-request-id", "job-9"))["x-request-id"] == "job-9"


def test_a_grpc_client_without_an_id_is_given_one(server: ServerProcess):
    assert infer(server, ModelInferRequest(model_name="nobody"))["x-request-id"]
