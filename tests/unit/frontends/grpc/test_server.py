"""Both transports with a table of plain functions: what a client sees of answers, errors, ends and limits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import SimpleNamespace

import grpc
import pytest

from services.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.frontends.grpc.call import Call, MethodTable, StreamContext, StreamMethod, UnaryMethod
from services.frontends.grpc.options import GrpcOptions
from services.frontends.grpc.transports import GrpcTransport, make_transport
from services.telemetry.metrics import Metrics
from services.telemetry.tables import CODE_NAMES

TIMEOUT_S = 20


def table(**handlers: Callable) -> MethodTable:
    return {
        f"/t.T/{name}": StreamMethod("t", name, handler)
        if name.startswith("stream")
        else UnaryMethod("t", name, handler)
        for name, handler in handlers.items()
    }


def echo(data: bytes, call: Call) -> None:
    call.reply(data)


async def stream_echo(requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:
    async for data in requests:
        if data == b"bad":
            raise InvalidArgument("bad message")
        yield data


@pytest.fixture(params=["native", "grpcio"])
def make_server(request: pytest.FixtureRequest) -> Callable[..., GrpcTransport]:
    """Makes a server of either transport."""
    return partial(make_transport, request.param)


@pytest.fixture
def run(make_server: Callable[..., GrpcTransport]) -> Callable[..., None]:
    """Runs a scenario against a server on a free port."""

    def run(
        methods: MethodTable,
        scenario: Callable[[GrpcTransport, grpc.aio.Channel], Awaitable[None]],
        options: GrpcOptions | None = None,
        channel_options: tuple[tuple[str, int], ...] = (),
        metrics: Metrics | None = None,
    ) -> None:
        async def main() -> None:
            server = make_server(methods, "127.0.0.1", 0, options=options, metrics=metrics, clock=lambda: 1000.0)
            port = await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options) as channel:
                    await asyncio.wait_for(scenario(server, channel), TIMEOUT_S)
            finally:
                await server.stop(grace_s=0)

        asyncio.run(main())

    return run


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def test_bytes_go_through_untouched(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        assert await channel.unary_unary("/t.T/Echo")(b"\x00\xff") == b"\x00\xff"

    run(table(Echo=echo), scenario)


def test_an_answer_may_come_later(run) -> None:
    def later(data: bytes, call: Call) -> None:
        asyncio.get_running_loop().call_soon(call.reply, data)

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        assert await channel.unary_unary("/t.T/Later")(b"x") == b"x"

    run(table(Later=later), scenario)


def test_an_error_arrives_as_its_status(run) -> None:
    def refuse(data: bytes, call: Call) -> None:
        raise DeadlineExceeded("too late é")

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        answer = await refused(channel.unary_unary("/t.T/Refuse")(b""))
        assert answer == (grpc.StatusCode.DEADLINE_EXCEEDED, "too late é")

    run(table(Refuse=refuse), scenario)


def test_an_unknown_method_is_unimplemented(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        code, _ = await refused(channel.unary_unary("/t.T/Nope")(b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED

    run(table(Echo=echo), scenario)


def test_the_callers_deadline_is_a_point_on_the_engines_clock(run) -> None:
    deadlines: list[float | None] = []

    def note(data: bytes, call: Call) -> None:
        deadlines.append(call.deadline)
        call.reply(b"")

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        await channel.unary_unary("/t.T/Note")(b"", timeout=15)
        await channel.unary_unary("/t.T/Note")(b"")

    run(table(Note=note), scenario)
    timed, untimed = deadlines
    assert timed is not None
    assert 1000 < timed <= 1015.1
    assert untimed is None


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_caller_that_goes_away_withdraws_its_work(run, end: str) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        await channel.channel_ready()
        call = channel.unary_unary("/t.T/Hang")(b"", timeout=1 if end == "deadline" else None)
        waiting = asyncio.ensure_future(refused(call)) if end == "deadline" else None
        await started.wait()
        if waiting is None:
            call.cancel()
        else:
            assert (await waiting)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await withdrawn.wait()

    started, withdrawn = asyncio.Event(), asyncio.Event()

    def hang(data: bytes, call: Call) -> None:
        call.work = SimpleNamespace(cancel=withdrawn.set)
        started.set()

    run(table(Hang=hang), scenario)
    assert withdrawn.is_set()


def test_streams_carry_messages_and_errors(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream("/t.T/stream_echo")()
        for data in (b"a", b"b", b"bad"):  # and nothing behind the end, where a write of this client hides the status
            await call.write(data)
        assert [await call.read(), await call.read()] == [b"a", b"b"]
        code, text = await refused(call.read())
        assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "bad message")

    run(table(stream_echo=stream_echo), scenario)


def test_an_unforeseen_error_in_a_stream_is_internal(run) -> None:
    async def stream_fail(requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:
        async for data in requests:
            yield data
            raise RuntimeError("/secret/path")

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream("/t.T/stream_fail")(iter([b"a"]))
        assert await call.read() == b"a"
        code, text = await refused(call.read())
        assert code is grpc.StatusCode.INTERNAL
        assert "secret" not in text

    run(table(stream_fail=stream_fail), scenario)


def ended(metrics: Metrics) -> dict[str, int]:
    """How many calls ended, by code; each must have."""
    counts = {}
    for key, series in metrics.tables.requests.items():
        series.settle()
        counts[CODE_NAMES[key.code]] = series.seconds.count
    assert metrics.tables.arrived["t"] == sum(counts.values())
    return counts


def test_streams_are_counted_by_how_they_end(run) -> None:
    metrics = Metrics(gpus=False)
    gone = asyncio.Event()

    async def stream_wait(requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:
        try:
            yield await anext(requests)
            await asyncio.sleep(TIMEOUT_S)
        finally:
            gone.set()

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        echo = channel.stream_stream("/t.T/stream_echo")
        assert [data async for data in echo(iter([b"ab", b"c"]))] == [b"ab", b"c"]
        await refused(echo(iter([b"bad"])).read())
        left = channel.stream_stream("/t.T/stream_wait")()
        await left.write(b"x")
        await left.read()
        assert metrics.tables.arrived["t"] == 3
        left.cancel()
        await gone.wait()

    run(table(stream_echo=stream_echo, stream_wait=stream_wait), scenario, metrics=metrics)
    assert ended(metrics) == {"OK": 1, "INVALID_ARGUMENT": 1, "CANCELLED": 1}
    [finished] = [series for key, series in metrics.tables.requests.items() if CODE_NAMES[key.code] == "OK"]
    assert (finished.received_bytes, finished.sent_bytes) == (3, 3)


def test_a_message_over_the_limit_is_refused(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        assert await channel.unary_unary("/t.T/Echo")(b"x" * 1000) == b"x" * 1000
        code, _ = await refused(channel.unary_unary("/t.T/Echo")(b"x" * 1001))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(table(Echo=echo), scenario, GrpcOptions(max_message_bytes=1000))


@pytest.mark.parametrize(("name", "magic"), [("gzip", b"\x1f\x8b"), ("deflate", b"\x78")])
def test_answers_are_compressed_where_asked_for(run, name: str, magic: bytes) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        compressed = await channel.unary_unary("/t.T/Echo")(b"x" * 10_000)
        assert compressed.startswith(magic)
        assert len(compressed) < 1000

    as_it_comes = (("grpc.per_message_decompression", 0),)
    run(table(Echo=echo), scenario, GrpcOptions(compression=name), as_it_comes)


def test_an_unknown_compression_is_refused(make_server) -> None:
    with pytest.raises(InvalidArgument, match=r"gzip, deflate\. Received: 'zstd'"):
        asyncio.run(make_server({}, "127.0.0.1", 0, options=GrpcOptions(compression="zstd")).start())


def test_a_port_that_is_taken_is_named(make_server) -> None:
    async def main() -> None:
        first = make_server({}, "127.0.0.1", 0)
        port = await first.start()
        try:
            with pytest.raises(Unavailable, match=f"Cannot listen for gRPC on 127.0.0.1:{port}"):
                await make_server({}, "127.0.0.1", port).start()
        finally:
            await first.stop(grace_s=0)

    asyncio.run(main())


def test_servers_may_share_a_port_where_told_to(make_server) -> None:
    async def main() -> None:
        options = GrpcOptions(reuse_port=True)
        first = make_server({}, "127.0.0.1", 0, options=options)
        port = await first.start()
        second = make_server({}, "127.0.0.1", port, options=options)
        try:
            assert await second.start() == port
        finally:
            await first.stop(grace_s=0)
            await second.stop(grace_s=0)

    asyncio.run(main())


def test_stopping_waits_for_running_calls(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = asyncio.ensure_future(channel.unary_unary("/t.T/Hold")(b""))
        await started.wait()
        stopping = asyncio.ensure_future(server.stop(grace_s=10))
        await asyncio.sleep(0)
        held[0].reply(b"done")
        assert await call == b"done"
        await stopping

    started, held = asyncio.Event(), []

    def hold(data: bytes, call: Call) -> None:
        held.append(call)
        started.set()

    run(table(Hold=hold), scenario)


def test_stopping_cancels_calls_that_outlast_the_grace(run) -> None:
    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = asyncio.ensure_future(refused(channel.unary_unary("/t.T/Hang")(b"")))
        await started.wait()
        await server.stop(grace_s=0)
        await withdrawn.wait()
        await call

    started, withdrawn = asyncio.Event(), asyncio.Event()

    def hang(data: bytes, call: Call) -> None:
        call.work = SimpleNamespace(cancel=withdrawn.set)
        started.set()

    run(table(Hang=hang), scenario)


def test_stopping_ends_streams_at_once(run) -> None:
    metrics = Metrics(gpus=False)

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream("/t.T/stream_echo")()
        await call.write(b"a")
        assert await call.read() == b"a"
        stopping = asyncio.ensure_future(server.stop(grace_s=60))
        code, _ = await refused(call.read())
        assert code is grpc.StatusCode.UNAVAILABLE
        await stopping

    run(table(stream_echo=stream_echo), scenario, metrics=metrics)
    assert ended(metrics) == {"UNAVAILABLE": 1}


def test_stopping_ends_a_stream_whose_answer_is_on_its_way(run) -> None:
    """Before its 60 seconds of grace are over: behind the message or, where half of it is sent, in it."""

    async def scenario(server: GrpcTransport, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream("/t.T/stream_large")()
        await call.write(b"a")
        await written.wait()
        stopping = asyncio.ensure_future(server.stop(grace_s=60))
        await asyncio.sleep(0)
        code, _ = await refused(read_to_the_end(call))
        # Where half a message has come, grpcio's client says one or the other of the last two.
        assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}
        await stopping

    async def stream_large(requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:
        async for _ in requests:
            asyncio.get_running_loop().call_later(0.05, written.set)
            yield bytes(size)

    async def read_to_the_end(call: grpc.aio.StreamStreamCall) -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    written, size = asyncio.Event(), 2**25
    limit = ("grpc.max_receive_message_length", 2 * size)
    run(table(stream_large=stream_large), scenario, channel_options=(limit,))
