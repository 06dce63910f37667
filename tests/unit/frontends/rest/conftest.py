"""A real engine with toy models behind the dispatcher, called in process as an ASGI server would."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services import testing
from services.engine.engine import Engine, EngineOptions
from services.engine.model_config import BatchingConfig, ModelConfig
from services.engine.version_policy import All
from services.frontends.rest.dispatcher import Dispatcher
from services.frontends.rest.http import ASGIApp, Message
from services.server_info import ServerInfo
from services.telemetry.metrics import Metrics

MAX_BODY_BYTES = 200_000
Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Rest:
    """An engine's dispatcher on a loop of its own."""

    def __init__(self, repository: Path, configs: list[ModelConfig] | None, fallback: ASGIApp | None = None) -> None:
        self.runner = asyncio.Runner()
        self.metrics = Metrics()
        options = EngineOptions(
            repository=repository, poll_interval_s=0, load_retries=0, intra_op_threads=1, drain_timeout_s=1.0
        )
        self.engine = Engine(options, configs, metrics=self.metrics)
        self.app = Dispatcher(
            self.engine,
            info=ServerInfo(name="cornet", given_version="9.9"),
            fallback=fallback,
            max_body_bytes=MAX_BODY_BYTES,
            metrics=self.metrics,
        )
        self.runner.run(self.engine.start())

    def close(self) -> None:
        self.runner.run(self.engine.stop())
        self.runner.close()

    def get(self, path: str, headers: Headers = (), method: str = "GET") -> Answer:
        return self.call(method, path, [b""], headers)

    def post(self, path: str, body: Any = b"", headers: Headers = ()) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", path, [content], headers)

    def call(self, method: str, path: str, chunks: Sequence[bytes], headers: Headers = ()) -> Answer:
        return self.runner.run(self.answer(method, path, chunks, headers))

    async def answer(self, method: str, path: str, chunks: Sequence[bytes], headers: Headers = ()) -> Answer:
        """What a client gets that sends a body in chunks and stays on the line."""
        messages = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        sent: list[Message] = []
        finished = asyncio.Event()

        async def receive() -> Message:
            if messages:
                return messages.pop(0)
            await finished.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope(method, path, headers), receive, send)
        finished.set()
        start, body = sent
        assert start["type"] == "http.response.start"
        return Answer(start["status"], dict(start["headers"]), body["body"])

    def counted(self) -> set[tuple[str, ...]]:
        """Labels of every request series: protocol, method, model, version, code."""
        samples = next(family for family in self.metrics.families() if family.name == "cornet_request_seconds").samples
        names = ("protocol", "method", "model", "version", "code")
        return {tuple(sample.labels[name] for name in names) for sample in samples}


def scope(method: str, path: str, headers: Headers = ()) -> dict[str, Any]:
    raw, _, query = path.encode().partition(b"?")
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": raw,
        "query_string": query,
        "headers": list(headers),
    }


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    testing.write_half_plus_two(root / "half_plus_two" / "1")
    testing.write_offset(root / "offset" / "1", 10.0, width=2)
    testing.write_offset(root / "offset" / "2", 20.0, width=2)
    testing.write_multi(root / "multi" / "1")
    testing.write_string_join(root / "strings" / "1")
    testing.write_identity(root / "floats" / "1", "float32", (None, None))
    testing.write_identity(root / "halves" / "1", "float16", (None, None))
    testing.write_identity(root / "a model" / "1", "int64", (None,))
    testing.write_slow(root / "slow" / "1", width=256, depth=2)
    testing.write_slow(root / "tiny_queue" / "1", width=256, depth=2)
    return root


@pytest.fixture(scope="module")
def rest(repository: Path) -> Iterator[Rest]:
    def config(name: str, **options: Any) -> ModelConfig:
        return ModelConfig(name, repository / name, **options)

    patient = BatchingConfig(max_queue_delay_us=60_000_000)
    served = Rest(
        repository,
        [
            config("half_plus_two"),
            config("offset", policy=All(), labels={"stable": 1}),
            config("multi"),
            config("strings"),
            config("floats"),
            config("halves"),
            config("a model"),
            config("slow", batching=patient),
            config("tiny_queue", batching=BatchingConfig(max_queue_rows=1, max_queue_delay_us=60_000_000)),
        ],
    )
    yield served
    served.close()


@pytest.fixture
def make_rest() -> Iterator[Callable[[Path], Rest]]:
    """Servers of a repository of the test's own."""
    made: list[Rest] = []

    def make(repository: Path) -> Rest:
        made.append(Rest(repository, None))
        return made[-1]

    yield make
    for served in made:
        served.close()
