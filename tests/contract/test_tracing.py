"""Traces from a server's front ends to a collector on loopback, and the id that joins them with the log."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import grpc

from services.launch import ServerProcess
from services.protocols.messages import ModelInferRequest

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{CALLER}-01"


def test_requests_of_both_front_ends_arrive_as_children_of_their_callers(repository: Path, collector: Any):
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


def test_a_grpc_client_gets_its_request_id_back_with_the_error(grpc_server: ServerProcess):
    assert (
        infer(grpc_server, ModelInferRequest(model_name="nobody"), ("x-request-id", "job-9"))["x-request-id"] == "job-9"
    )


def test_a_grpc_client_without_an_id_is_given_one(grpc_server: ServerProcess):
    assert infer(grpc_server, ModelInferRequest(model_name="nobody"))["x-request-id"]
