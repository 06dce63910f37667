"""Servers in subprocesses for all contract tests, over toy models and a repository tests may read."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import pytest

from services import testing
from services.launch import ServerProcess
from services.tensors import DTYPES


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy models, plain ONNX without a manifest: `<name>/<version>/model.onnx`. `offset` adds its version number."""
    root = tmp_path_factory.mktemp("repository")
    testing.write_half_plus_two(root / "half_plus_two" / "1")
    testing.write_offset(root / "offset" / "1", 1.0)
    testing.write_offset(root / "offset" / "2", 2.0)
    testing.write_string_join(root / "string_join" / "1")
    testing.write_multi(root / "multi" / "1")
    testing.write_signatures(root / "signatures" / "1")
    testing.write_lookup(root / "lookup" / "1")
    testing.write_not_batchable(root / "not_batchable" / "1")
    testing.write_mlp(root / "mlp" / "1")
    testing.write_slow(root / "slow" / "1")
    for dtype in DTYPES:
        testing.write_identity(root / f"identity_{dtype.name}" / "1", dtype.name)
    return root


@pytest.fixture(scope="session")
def models_file(repository: Path) -> Path:
    """Names every toy model; of `offset` both versions, labelled `stable` (1) and `canary` (2)."""
    models = repository.parent / f"{repository.name}.toml"
    tables = [f'repository = "{repository}"']
    for folder in sorted(repository.iterdir()):
        tables.append(f"[models.{folder.name}]")
        if folder.name == "offset":
            tables.append('versions = "all"\nlabels = { stable = 1, canary = 2 }')
    models.write_text("\n".join(tables), encoding="utf-8")
    return models


@pytest.fixture(scope="session")
def servers(repository: Path, models_file: Path) -> Iterator[Callable[[str], ServerProcess]]:
    """`servers(transport)`: one server per gRPC transport, started when it is first asked for."""
    running: dict[str, ServerProcess] = {}
    with ExitStack() as stack:

        def get(transport: str) -> ServerProcess:
            if transport not in running:
                options = ("--models", str(models_file), "--grpc-transport", transport)
                running[transport] = stack.enter_context(ServerProcess(repository, *options))
            return running[transport]

        yield get


@pytest.fixture(scope="session")
def server(servers: Callable[[str], ServerProcess]) -> ServerProcess:
    """Serves every toy model."""
    return servers("native")


@pytest.fixture(scope="session", params=["native", "grpcio"])
def grpc_server(request: pytest.FixtureRequest, servers: Callable[[str], ServerProcess]) -> ServerProcess:
    """The same over each gRPC transport: what a client sees must not tell them apart."""
    return servers(request.param)


@pytest.fixture(scope="module")
def free_port() -> int:
    """For a server that cannot be told to pick one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Collector:
    """An OTLP endpoint that keeps the spans it is sent."""

    def __init__(self) -> None:
        collector_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
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


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()
