"""Independent clients against the native gRPC transport: grpcio, grpclib, grpc-js, curl and h2load."""

import asyncio
import gzip
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import http2_frames as h2
import http2_peer
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_host import Host, pattern
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from services.frontends.grpc.http2.limits import Limits
from services.launch import ServerProcess

TIMEOUT_S = 60
GRPC_JS = Path(__file__).parent / "grpc_js"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def installed(command: str, package: str) -> pytest.MarkDecorator:
    reason = f"{command} is not installed (Debian package {package})"
    return pytest.mark.skipif(shutil.which(command) is None, reason=reason)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("native") as running:
        yield running
        running.settle(lambda: running.unfinished == 0, "no call left over")
        running.settle(lambda: running.connections() == 0, "no connection left over")
        assert running.problems == []


@pytest.fixture
def channel(host: Host) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(host.target, options=UNLIMITED) as channel:
        yield channel


# grpcio


def test_grpcio_calls_of_every_kind(channel: grpc.Channel) -> None:
    assert channel.unary_unary("/t.T/Echo")(b"abc", timeout=TIMEOUT_S) == b"abc"
    assert list(channel.unary_stream("/t.T/Count")(b"100 1000", timeout=TIMEOUT_S)) == [bytes(1000)] * 100
    assert channel.stream_unary("/t.T/Total")(iter([b"abc"] * 1000), timeout=TIMEOUT_S) == b"3000"
    messages = [b"%d" % number for number in range(200)]
    assert list(channel.stream_stream("/t.T/Chat")(iter(messages), timeout=TIMEOUT_S)) == messages


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_grpcio_compresses_what_it_sends(channel: grpc.Channel, algorithm: grpc.Compression) -> None:
    content = pattern(1_000_000)
    assert channel.unary_unary("/t.T/Echo")(content, timeout=TIMEOUT_S, compression=algorithm) == content


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_grpcio_unpacks_what_it_is_sent(algorithm: str) -> None:
    with Host("native", compression=algorithm) as host, grpc.insecure_channel(host.target) as channel:
        content = pattern(1_000_000)
        assert channel.unary_unary("/t.T/Echo")(content, timeout=TIMEOUT_S) == content
        assert list(channel.stream_stream("/t.T/Chat")(iter([content, b""]), timeout=TIMEOUT_S)) == [content, b""]


def test_grpcio_sees_a_code_a_text_and_trailing_metadata(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Fail")("50% é\n".encode(), timeout=TIMEOUT_S, metadata=(("x-request-id", "py-1"),))
    error = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "50% é\n")
    assert dict(error.trailing_metadata())["x-request-id"] == "py-1"


def test_grpcio_sees_the_status_of_a_stream_that_ends_while_it_sends_on(channel: grpc.Channel) -> None:
    """Each call races its own writes against the trailers and the reset behind them.

    grpcio's blocking client is asked. Its asyncio client gives up a call whose write comes after the end, as "Internal
    error from Core", where it has not looked at the status yet; and does so with grpcio's own server too.
    """
    chat = channel.stream_stream("/t.T/FailAfterOne")

    def ask(_: int) -> tuple[list[bytes], grpc.StatusCode, str]:
        call, got = chat(iter([b"a", b"b", b"c", b"d"]), timeout=TIMEOUT_S), []
        with pytest.raises(grpc.RpcError):
            got.extend(call)
        return got, call.code(), call.details()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(500)))
    assert [answer for answer in answers if answer != ([b"a"], grpc.StatusCode.INVALID_ARGUMENT, "one is enough")] == []


def test_many_streams_on_several_connections_are_answered_each_with_its_own(host: Host) -> None:
    apart = ("grpc.use_local_subchannel_pool", 1)
    channels = [grpc.insecure_channel(host.target, options=[apart]) for _ in range(4)]
    calls = [channel.unary_unary("/t.T/Echo") for channel in channels]
    asked = {calls[number % 4].future(b"%d" % number, timeout=TIMEOUT_S): b"%d" % number for number in range(2000)}
    assert all(call.result() == data for call, data in asked.items())
    for channel in channels:
        channel.close()


def test_connections_that_end_for_their_age_lose_no_call() -> None:
    """The client goes on at once on a new connection, and what was on its way is answered on the old one."""
    with Host("native", limits=Limits(max_age_s=0.1, max_age_grace_s=30.0)) as host:
        with grpc.insecure_channel(host.target) as channel, ThreadPoolExecutor(8) as pool:
            echo = channel.unary_unary("/t.T/Echo")

            def ask(number: int) -> bool:
                return echo(b"%d" % number, timeout=TIMEOUT_S) == b"%d" % number

            asked = 0
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                assert all(pool.map(ask, range(asked, asked + 100)))
                asked += 100
        assert host.problems == []


def test_hundreds_of_streams_that_stay_open_are_served_on_one_connection(channel: grpc.Channel) -> None:
    open_streams = [channel.stream_stream("/t.T/Chat") for _ in range(300)]

    def talk(number: int) -> list[bytes]:
        return list(open_streams[number](iter([b"%d" % number, pattern(10_000)]), timeout=TIMEOUT_S))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(talk, range(300)))
    assert answers == [[b"%d" % number, pattern(10_000)] for number in range(300)]


def test_a_hundred_megabytes_go_both_ways(channel: grpc.Channel) -> None:
    content = pattern(100 * 2**20)
    assert channel.unary_unary("/t.T/Echo")(content, timeout=TIMEOUT_S) == content


def test_a_hundred_megabytes_reach_a_slow_reader_while_others_are_served(host: Host, channel: grpc.Channel) -> None:
    """The reader opens its window of 64 KiB bit by bit, between calls of another client."""
    with http2_peer.Peer(host.address) as slow:
        stream = slow.open("/t.T/Large")
        slow.send_message(stream, b"%d" % (100 * 2**20), end=True)
        echo = channel.unary_unary("/t.T/Echo")
        for tenth in range(1, 11):
            slow.pump_until(lambda least=tenth * 10 * 2**20: slow.received_bytes >= least, "the next tenth")
            assert echo(b"meanwhile", timeout=TIMEOUT_S) == b"meanwhile"
        assert slow.answer(stream).data == pattern(100 * 2**20)


def test_triton_s_client_sends_and_takes_a_tensor_of_a_hundred_megabytes(server: ServerProcess) -> None:
    values = np.arange(25 * 2**20, dtype=np.float32).reshape(25, -1)
    sent = triton.InferInput("x", list(values.shape), "FP32")
    sent.set_data_from_numpy(values)
    with triton.InferenceServerClient(server.grpc_address) as client:
        got = client.infer("identity_float32", [sent], client_timeout=TIMEOUT_S).as_numpy("y")
    assert np.array_equal(got, values)


def test_triton_s_asynchronous_client_is_served(grpc_server: ServerProcess) -> None:
    async def ask(client: triton_aio.InferenceServerClient, number: int) -> float:
        sent = triton.InferInput("x", [1, 1], "FP32")
        sent.set_data_from_numpy(np.array([[number]], np.float32))
        result = await client.infer("half_plus_two", [sent], client_timeout=TIMEOUT_S)
        return result.as_numpy("y").item()

    async def main() -> list[float]:
        async with triton_aio.InferenceServerClient(grpc_server.grpc_address) as client:
            assert await client.is_server_ready()
            return await asyncio.gather(*(ask(client, number) for number in range(100)))

    assert asyncio.run(main()) == [number / 2 + 2 for number in range(100)]


# grpclib: another HTTP/2 implementation, hyper's


class Bytes:
    """grpclib's codec for messages that are bytes already."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


def test_grpclib_calls_of_every_kind(host: Host) -> None:
    async def main() -> None:
        address, port = host.address
        async with Channel(address, port, codec=Bytes()) as channel:
            echo = UnaryUnaryMethod(channel, "/t.T/Echo", bytes, bytes)
            large = pattern(3_000_000)
            assert await echo(large, timeout=TIMEOUT_S) == large
            numbers = [b"%d" % number for number in range(90)]
            assert await asyncio.gather(*(echo(number, timeout=TIMEOUT_S) for number in numbers)) == numbers
            chat = StreamStreamMethod(channel, "/t.T/Chat", bytes, bytes)
            assert await chat([b"a", b"b"], timeout=TIMEOUT_S) == [b"a", b"b"]
            count = StreamStreamMethod(channel, "/t.T/Count", bytes, bytes)
            assert await count([b"500 1000"], timeout=TIMEOUT_S) == [bytes(1000)] * 500
            with pytest.raises(GRPCError) as failed:
                await UnaryUnaryMethod(channel, "/t.T/Fail", bytes, bytes)("50% é".encode())
            assert (failed.value.status, failed.value.message) == (Status.INVALID_ARGUMENT, "50% é")
            with pytest.raises(asyncio.TimeoutError):
                await UnaryUnaryMethod(channel, "/t.T/Hang", bytes, bytes)(b"", timeout=0.2)
            assert await echo(b"afterwards", timeout=TIMEOUT_S) == b"afterwards"

    asyncio.run(main())


# grpc-js: Node's HTTP/2 is nghttp2's


@installed("node", "nodejs")
def test_grpc_js_calls_of_every_kind(host: Host) -> None:
    if not (GRPC_JS / "node_modules" / ".package-lock.json").is_file():
        pytest.skip("grpc-js is not installed: make test installs it where there is npm")
    command = ["node", str(GRPC_JS / "client.mjs"), host.target]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "echo": "abc",
        "many": True,
        "large": True,
        "failed": [3, "50% é\n"],
        "unknown": 12,
        "late": 4,
        "cancelled": 1,
        "metadata": ["a", [0, 1, 255]],
        "id": "js-1",
        "chat": [0, "a b c"],
        "total": [0, "1000000"],
        "count": [0, 1000, True],
        "halfway": [3, "one is enough", 1],
    }


# curl and h2load: nghttp2 without any gRPC


def curl(host: Host, folder: Path, *options: object) -> tuple[list[str], bytes]:
    """The lines of the head, trailers among them, and the body that curl gets from `Echo`."""
    head, body = folder / "head", folder / "body"
    command = ["curl", "--http2-prior-knowledge", "--silent", "--show-error", "--noproxy", "*", "--max-time", TIMEOUT_S]
    files = ["--dump-header", head, "--output", body, f"http://{host.target}/t.T/Echo"]
    ran = subprocess.run([*map(str, (*command, *options, *files))], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [line.strip() for line in head.read_text(encoding="utf-8").splitlines()], body.read_bytes()


@installed("curl", "curl")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_curl_makes_a_call(host: Host, tmp_path: Path, packed: bool) -> None:
    content = pattern(200_000)
    request = tmp_path / "request"
    request.write_bytes(h2.message(gzip.compress(content), 1) if packed else h2.message(content))
    fields = ["content-type: application/grpc", "te: trailers", *(["grpc-encoding: gzip"] if packed else [])]
    options = [option for field in fields for option in ("--header", field)]
    lines, body = curl(host, tmp_path, *options, "--data-binary", f"@{request}")
    assert body == h2.message(content)
    assert lines[0] == "HTTP/2 200"
    assert "grpc-status: 0" in lines


@installed("curl", "curl")
def test_a_plain_get_of_curl_is_an_http_error(host: Host, tmp_path: Path) -> None:
    lines, _ = curl(host, tmp_path)
    assert lines[0].startswith("HTTP/2 4")


@installed("h2load", "nghttp2-client")
def test_h2load_s_calls_all_succeed(host: Host, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(h2.message(b"load"))
    shape = ["--requests=3000", "--clients=5", "--max-concurrent-streams=20", f"--data={request}"]
    headers = ["--header=content-type: application/grpc", "--header=te: trailers"]
    ran = subprocess.run(
        ["h2load", *shape, *headers, f"http://{host.target}/t.T/Echo"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert re.search(r"3000 succeeded, 0 failed, 0 errored, 0 timeout", ran.stdout), ran.stdout + ran.stderr
    assert "3000 2xx" in ran.stdout
