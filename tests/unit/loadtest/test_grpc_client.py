"""What becomes of a call: a server's own refusals are told apart from connections that are lost."""

import asyncio
import socket
from typing import Any

import grpc
import pytest

from services.loadtest.grpc_client import GrpcClient
from services.loadtest.requests import CONNECTION, OK, TIMEOUT, Answer, Request


class Echo(grpc.GenericRpcHandler):
    """Answers `/s/echo` with what it got, never answers `/s/never`, and every other method with the status it names."""

    def service(self, details: Any) -> Any:
        name = details.method.removeprefix("/s/")

        async def handle(data: bytes, context: Any) -> bytes:
            if name == "never":
                await asyncio.Event().wait()
            if name != "echo":
                await context.abort(grpc.StatusCode[name], data.decode())
            return data

        return grpc.unary_unary_rpc_method_handler(handle)


def ask(*requests: Request, timeout_s: float = 20.0) -> list[Answer]:
    async def run() -> list[Answer]:
        server = grpc.aio.server(handlers=(Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = GrpcClient(f"127.0.0.1:{port}", connections=2, timeout_s=timeout_s)
        try:
            return [await client.send(request) for request in requests]
        finally:
            await client.close()
            await server.stop(0)

    return asyncio.run(run())


def test_an_answer_is_its_bytes() -> None:
    assert ask(Request("/s/echo", b"1"), Request("/s/echo", b"2")) == [Answer(OK, b"1"), Answer(OK, b"2")]


def test_a_refusal_of_the_server_has_its_code_and_text() -> None:
    (answer,) = ask(Request("/s/UNAVAILABLE", b"the queue is full"))

    assert answer == Answer("UNAVAILABLE", b"the queue is full")


def test_a_call_that_grpcs_own_server_refused_is_explained() -> None:
    refused, other = ask(Request("/s/CANCELLED", b"CANCELLED"), Request("/s/CANCELLED", b"by hand"))

    assert refused.code == other.code == "CANCELLED"
    assert b"max_pending_requests" in refused.body
    assert other.body == b"by hand"


def test_no_answer_in_time_is_a_timeout() -> None:
    (answer,) = ask(Request("/s/never"), timeout_s=0.05)

    assert answer.code == TIMEOUT


@pytest.mark.parametrize("count", [1, 3])
def test_a_server_that_is_not_there_is_a_lost_connection(count: int) -> None:
    async def run(port: int) -> list[Answer]:
        client = GrpcClient(f"127.0.0.1:{port}", connections=1, timeout_s=20.0)
        try:
            return [await client.send(Request("/s/echo")) for _ in range(count)]
        finally:
            await client.close()

    with socket.socket() as taken:  # bound and not listening: nobody else can
        taken.bind(("127.0.0.1", 0))
        answers = asyncio.run(run(taken.getsockname()[1]))

    assert [answer.code for answer in answers] == [CONNECTION] * count
