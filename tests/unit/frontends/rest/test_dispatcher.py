"""What the dispatcher does for every route: limits, disconnects, faults, counting, passing on."""

import asyncio
import gzip
import json
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest

from services.frontends.rest.dispatcher import Dispatcher
from services.frontends.rest.http import Message, preferred_encoding
from services.frontends.rest.lifespan import run_lifespan
from services.frontends.rest.offload import THREAD_FROM_BYTES
from services.server_info import ServerInfo
from services.telemetry.metrics import Metrics

PREDICT = "/v1/models/half_plus_two:predict"
ROW = json.dumps({"instances": [[1.0]]}).encode()
SLOW = json.dumps({"instances": [[0.0] * 256]}).encode()
MAX_BODY_BYTES = 200_000


def request_scope(method: str, path: str, headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": headers or []}


def test_a_body_in_chunks_is_joined(rest):
    answer = rest.call("POST", PREDICT, [ROW[:5], b"", ROW[5:], b""])
    assert answer.json == {"predictions": [[2.5]]}


def test_a_body_over_the_limit_is_refused_before_it_is_read(rest):
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"", "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(MAX_BODY_BYTES + 1).encode())]
    rest.runner.run(rest.app(request_scope("POST", PREDICT, headers), receive, send))
    assert (sent[0]["status"], reads) == (413, 0)
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(rest):
    chunk = b" " * 60_000
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    rest.runner.run(rest.app(request_scope("POST", PREDICT), receive, send))
    assert (sent[0]["status"], reads) == (413, 4)
    assert str(MAX_BODY_BYTES) in json.loads(sent[1]["body"])["error"]


def test_a_compressed_body_is_bounded_as_inflated(rest):
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < MAX_BODY_BYTES
    answer = rest.post(PREDICT, bomb, [(b"content-encoding", b"gzip")])
    assert answer.status == 413


def test_a_compressed_body_at_the_limit_is_read(rest):
    body = gzip.compress(ROW + b" " * (MAX_BODY_BYTES - len(ROW)))
    assert rest.post(PREDICT, body, [(b"content-encoding", b"gzip")]).status == 200


def test_gzip_members_are_joined(rest):
    body = gzip.compress(ROW[:5]) + gzip.compress(ROW[5:])
    assert rest.post(PREDICT, body, [(b"content-encoding", b"gzip")]).status == 200


@pytest.mark.parametrize(
    ("encoding", "body"),
    [(b"gzip", b"no gzip"), (b"gzip", gzip.compress(ROW, mtime=0)[:-9]), (b"deflate", b"\x00"), (b"br", ROW)],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused(rest, encoding, body):
    answer = rest.post(PREDICT, body, [(b"content-encoding", encoding)])
    assert answer.status == 400
    assert "Expected" in answer.json["error"]


@pytest.mark.parametrize("length", [b"9" * 5000, b"x"])
def test_an_odd_content_length_does_no_harm(rest, length):
    assert rest.post(PREDICT, ROW, [(b"content-length", length)]).status in (200, 413)


def test_a_client_that_hangs_up_withdraws_its_request(rest):
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": SLOW, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def hang_up() -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        call = asyncio.ensure_future(rest.app(request_scope("POST", "/v1/models/slow:predict"), receive, send))
        await until_queued(rest, "slow")
        gone.set()
        await asyncio.wait_for(call, 30)
        return sent[0]["status"]

    assert rest.runner.run(hang_up()) == 499
    assert queued(rest, "slow") == 0


def test_a_cancelled_call_withdraws_its_request(rest):
    async def cancel() -> None:
        call = asyncio.ensure_future(rest.answer("POST", "/v1/models/slow:predict", [SLOW]))
        await until_queued(rest, "slow")
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call

    rest.runner.run(cancel())
    assert queued(rest, "slow") == 0


def test_a_client_that_hangs_up_while_sending_is_counted_and_not_answered(rest):
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        pytest.fail(f"nobody listens, but got {message}")

    rest.runner.run(rest.app(request_scope("POST", PREDICT), receive, send))
    assert ("tfs-rest", "predict", "half_plus_two", "", "CANCELLED") in rest.counted()


LARGE_ROWS = [[float(i), 0.0] for i in range(11_000)]


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/models/floats:predict", {"instances": LARGE_ROWS}),
        (
            "/v2/models/floats/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [11_000, 2], "data": LARGE_ROWS}]},
        ),
    ],
)
@pytest.mark.parametrize("step", ["orjson.loads", "numpy.ascontiguousarray"])
def test_the_loop_answers_others_while_a_large_body_is_read_or_written(rest, monkeypatch, path, document, step):
    """A step of decoding (then of encoding) waits for another request to be answered: on the loop it would never be."""
    module, _, name = step.partition(".")
    real, entered, answered = getattr(sys.modules[module], name), threading.Event(), threading.Event()
    waited: list[bool] = []

    def patient(*args: Any, **options: Any) -> Any:
        if not entered.is_set():
            entered.set()
            waited.append(answered.wait(10))
        return real(*args, **options)

    body = json.dumps(document).encode()
    assert len(body) > THREAD_FROM_BYTES

    async def both() -> int:
        large = asyncio.ensure_future(rest.answer("POST", path, [body]))
        await asyncio.to_thread(entered.wait, 10)
        assert (await rest.answer("GET", "/livez", [b""])).status == 200
        answered.set()
        return (await large).status

    monkeypatch.setattr(sys.modules[module], name, patient)
    assert rest.runner.run(both()) == 200
    assert waited == [True]


def test_a_large_body_that_is_wrong_is_refused_as_a_small_one_is(rest):
    answer = rest.post("/v1/models/floats:predict", {"instances": [*LARGE_ROWS, ["x", 0.0]]})
    assert answer.status == 400
    assert "element: 11000" in answer.json["error"]


def test_a_fault_is_500_without_its_cause_and_the_log_has_it(rest, monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(rest.engine, "models", broken)
    answer = rest.get("/readyz")
    assert (answer.status, answer.json.keys()) == (500, {"error"})
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


def test_requests_are_counted_under_names_that_clients_cannot_invent(rest):
    rest.post(PREDICT, ROW)
    rest.post("/v2/models/nosuch1/infer", {"inputs": []})
    rest.get("/v1/models/nosuch2")
    rest.get("/v1/nosuch3")
    rest.get("/livez", method="DELETE")
    rest.get("/v2/nosuch4")
    rest.get("/nosuch5")
    counted = rest.counted()
    assert ("tfs-rest", "predict", "half_plus_two", "1", "OK") in counted
    assert ("oip-rest", "infer", "unknown", "", "NOT_FOUND") in counted
    assert ("tfs-rest", "status", "unknown", "", "NOT_FOUND") in counted
    assert ("http", "livez", "", "", "UNIMPLEMENTED") in counted
    assert ("tfs-rest", "unknown", "", "", "INVALID_ARGUMENT") in counted
    assert not [labels for labels in counted if "nosuch" in str(labels)]


def test_without_a_fallback_other_paths_are_404_and_told_what_is_served(rest):
    answer = rest.get("/nosuch")
    assert answer.status == 404
    assert "/v2/models/{model}/infer" in answer.json["served"]


@pytest.fixture
def with_fallback(rest):
    seen: list[str] = []

    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("path", scope["type"]))

    app = Dispatcher(rest.engine, info=ServerInfo(), fallback=fallback, max_body_bytes=1000, metrics=Metrics())
    return app, seen, rest.runner


async def _nothing() -> Message:
    raise AssertionError("nothing is read here")


async def _drop(_: Message) -> None:
    return


@pytest.mark.parametrize(
    ("path", "passed_on"), [("/docs", True), ("/", True), ("/v1x", True), ("/livez", False), ("/v1/x", False)]
)
def test_other_paths_are_the_fallbacks(with_fallback, path, passed_on):
    app, seen, runner = with_fallback
    runner.run(app(request_scope("GET", path), _nothing, _drop))
    assert seen == ([path] if passed_on else [])


def test_other_protocols_are_the_fallbacks(with_fallback):
    app, seen, runner = with_fallback
    runner.run(app({"type": "websocket"}, _nothing, _drop))
    assert seen == ["websocket"]


def test_a_path_below_a_root_is_found(rest):
    async def call() -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        below = request_scope("GET", "/below/v2/health/live") | {"root_path": "/below"}
        await rest.app(below, _nothing, send)
        return sent[0]["status"]

    assert rest.runner.run(call()) == 200


def play_lifespan(app: Any) -> list[str]:
    messages = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    sent: list[str] = []

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        sent.append(message["type"])

    asyncio.run(run_lifespan(app, {"type": "lifespan"}, receive, send))
    return sent


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_lifespan_is_answered_without_a_fallback():
    assert play_lifespan(None) == COMPLETE


def test_lifespan_is_forwarded():
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            message = await receive()
            seen.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    assert play_lifespan(app) == COMPLETE
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("reads", [0, 1])
def test_a_fallback_without_a_lifespan_is_done_without(reads):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(reads):
            await receive()
        raise NotImplementedError("no lifespan")

    assert play_lifespan(app) == COMPLETE


def test_a_fallback_that_fails_to_start_fails_the_start():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        play_lifespan(app)


@pytest.mark.parametrize(
    ("header", "want"),
    [
        (b"", b"identity"),
        (b"gzip", b"gzip"),
        (b"deflate, gzip", b"deflate"),
        (b"deflate;q=0.5, gzip;q=0.8", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=x, br", b"identity"),
        (b"identity;q=1, gzip;q=0.1", b"identity"),
    ],
)
def test_the_encoding_with_the_most_weight_is_preferred(header, want):
    assert preferred_encoding(header) == want


async def until_queued(rest: Any, model: str) -> None:
    """Let the loop turn until the model has a request waiting."""
    for _ in range(100):
        if queued(rest, model):
            return
        await asyncio.sleep(0)
    pytest.fail(f"no request for {model} was queued; its versions: {rest.engine.statuses(model)}")


def queued(rest: Any, model: str) -> int:
    with rest.engine.acquire(model) as handle:
        return handle.servable.queued_rows


def test_it_can_be_mounted_in_another_app(rest):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    outer = Starlette(routes=[Mount("/below", rest.app), Mount("/", rest.app)])

    async def ask(path: str) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await outer(request_scope("GET", path), _nothing, send)
        return sent[0]["status"]

    assert [rest.runner.run(ask(path)) for path in ("/v2/health/live", "/below/v1/models/offset")] == [200, 200]
