"""Connections that come together are taken together, and what stops one from being taken stops no other."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import uvloop

from services.frontends import acceptor
from services.frontends.acceptor import Acceptor

MANY = 40
FEW_TURNS = 10


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def __init__(self, opened: list["Echo"]) -> None:
        self.opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.opened.append(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Exhausted(socket.socket):
    """A listener that finds no file descriptor for its first connection."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bound(socket.socket()) as bound_socket:
        yield bound_socket


def bound(listener: socket.socket) -> socket.socket:
    listener.bind(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def serve(listener: socket.socket, scenario: Callable[[Acceptor, list[Echo]], Awaitable[None]]) -> None:
    async def main() -> None:
        opened: list[Echo] = []
        accepting = Acceptor(listener, lambda: Echo(opened))
        await scenario(accepting, opened)
        accepting.close()
        accepting.close()
        await accepting.wait_closed()

    uvloop.run(main())


async def echoed(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    await loop.sock_sendall(client, b"hello")
    return await asyncio.wait_for(loop.sock_recv(client, 100), 5)


def test_clients_that_come_together_do_not_wait_for_one_turn_of_the_loop_each(listener: socket.socket) -> None:
    async def scenario(_: Acceptor, opened: list[Echo]) -> None:
        address = listener.getsockname()
        with ExitStack() as clients:
            for _ in range(MANY):
                clients.enter_context(closing(socket.create_connection(address)))
            for _ in range(FEW_TURNS):
                await asyncio.sleep(0)
            assert len(opened) == MANY

    serve(listener, scenario)


def test_a_connection_is_served_and_does_not_wait_to_fill_a_packet(listener: socket.socket) -> None:
    async def scenario(_: Acceptor, opened: list[Echo]) -> None:
        with socket.create_connection(listener.getsockname()) as client:
            assert await echoed(client) == b"hello"
            [echo] = opened
            option = echo.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert option

    serve(listener, scenario)


def test_after_its_end_no_connection_is_taken_and_open_ones_go_on(listener: socket.socket) -> None:
    async def scenario(accepting: Acceptor, _: list[Echo]) -> None:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            assert await echoed(client) == b"hello"
            accepting.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            assert await echoed(client) == b"hello"

    serve(listener, scenario)


def test_a_client_without_a_handshake_does_not_hold_up_the_end(listener: socket.socket) -> None:
    async def main() -> None:
        accepting = Acceptor(listener, lambda: Echo([]), SSLContext(PROTOCOL_TLS_SERVER), handshake_timeout_s=60)
        with socket.create_connection(listener.getsockname()):
            for _ in range(FEW_TURNS):
                await asyncio.sleep(0)
            accepting.close()
            await asyncio.wait_for(accepting.wait_closed(), 5)

    uvloop.run(main())


def test_where_there_are_no_file_descriptors_connections_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_S", 0.01)

    async def scenario(_: Acceptor, __: list[Echo]) -> None:
        with socket.create_connection(listener.getsockname()) as client:
            assert await echoed(client) == b"hello"

    with bound(Exhausted()) as listener:
        serve(listener, scenario)
    assert "no connection can be taken" in caplog.text
