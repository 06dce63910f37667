"""The ASGI app around the endpoints: built late and once, silent towards the network, bounded."""

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.engine.engine import Engine, EngineOptions
from services.frontends.bento import calls as calls_module
from services.frontends.bento.app import typed_app

LARGE = {"records": [[1, 2]] * 1000}


def run_scope(scope: dict[str, Any], *received: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    async def body() -> Any:
        app = typed_app(Engine(EngineOptions(repository=Path("nowhere"))))
        messages, sent = list(received), []

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return app, sent

    return asyncio.run(body())  # type: ignore[no-any-return]  # the pair above


def test_startup_does_not_wait_for_bentoml() -> None:
    app, sent = run_scope({"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app._building is None


def test_a_websocket_is_closed() -> None:
    assert run_scope({"type": "websocket"})[1] == [{"type": "websocket.close", "code": 1000}]


def test_the_app_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.frontends.bento.service import LeanApp

    built: list[object] = []
    real = LeanApp.__call__

    def build(self: LeanApp) -> object:
        built.append(self)
        return real(self)

    monkeypatch.setattr(LeanApp, "__call__", build)

    async def body() -> None:
        app = typed_app(Engine(EngineOptions(repository=Path("nowhere"))))
        await asyncio.gather(*(app.prepare() for _ in range(5)))

    asyncio.run(body())
    assert len(built) == 1


def test_a_cancelled_preparation_does_not_spoil_the_next() -> None:
    async def body() -> None:
        app = typed_app(Engine(EngineOptions(repository=Path("nowhere"))))
        first = asyncio.create_task(app.prepare())
        await asyncio.sleep(0)
        first.cancel()
        await app.prepare()

    asyncio.run(body())


def test_bentoml_reports_nothing() -> None:
    from bentoml._internal.utils.analytics.usage_stats import do_not_track

    assert os.environ["BENTOML_DO_NOT_TRACK"] == "true"
    assert do_not_track()


def test_no_middleware_of_bentoml_stands_before_a_call() -> None:
    from services.frontends.bento.service import LeanApp, LeanService, TypedEndpoints

    service = LeanService(name="cornet", config={"workers": 1}, inner=TypedEndpoints)
    service.inject_config()
    assert LeanApp(service).middlewares == []


def test_too_many_calls_waiting_to_be_encoded_are_refused(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_WAITING_ENCODES", 2)

    async def crowd(client: httpx.AsyncClient, _: Engine) -> list[httpx.Response]:
        await client.post("/regress", json=LARGE)
        return list(await asyncio.gather(*(client.post("/regress", json=LARGE) for _ in range(6))))

    responses = serve(crowd)
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert {response.status_code for response in responses} == {200, 429}
    assert refused[0].headers["retry-after"] == "1"


def test_no_place_is_lost_by_refused_and_failed_calls(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_WAITING_ENCODES", 1)

    async def in_turn(client: httpx.AsyncClient, _: Engine) -> list[int]:
        bad = {"records": [["x", 2]] * 1000}
        return [(await client.post("/regress", json=body)).status_code for body in (bad, bad, LARGE, LARGE)]

    assert serve(in_turn) == [400, 400, 200, 200]


def test_a_client_that_hangs_up_withdraws_its_rows(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> tuple[list[object], bool, str]:
        engine = Engine(EngineOptions(repository=repository, poll_interval_s=0))
        await engine.start()
        app = typed_app(engine)
        withdrawn = asyncio.Event()

        async def never(_: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                withdrawn.set()
                raise

        monkeypatch.setattr(engine, "infer", never)
        messages = [{"type": "http.request", "body": b'{"records": [[1, 2]]}'}, {"type": "http.disconnect"}]
        sent: list[object] = []

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/regress", "headers": [], "query_string": b""}
        await asyncio.wait_for(app(scope, receive, send), 20)
        await engine.stop()
        return sent, withdrawn.is_set(), engine.metrics.render()[0].decode()

    sent, withdrawn, metrics = asyncio.run(body())
    assert (sent, withdrawn) == ([], True)
    assert 'cornet_request_seconds_count{code="CANCELLED",method="regress"' in metrics
