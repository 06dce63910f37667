import socket

import pytest

from services.errors import Unavailable
from services.workers import ports


def reserve(port: int, host: str = "127.0.0.1") -> socket.socket:
    return ports.reserve(host, port, lambda reason: Unavailable(f"no: {reason}"))


def listen(port: int) -> socket.socket:
    """As a worker does."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_several_processes_may_listen_on_a_reserved_port() -> None:
    with reserve(0) as holder:
        port = holder.getsockname()[1]
        with listen(port), listen(port), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_nobody_is_connected_to_a_port_that_is_only_reserved() -> None:
    with reserve(0) as holder, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", holder.getsockname()[1]), timeout=5)


def test_a_port_that_another_server_shares_is_taken() -> None:
    with reserve(0) as holder:
        port = holder.getsockname()[1]
        with listen(port), pytest.raises(Unavailable, match="no: Address already in use"):
            reserve(port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(Unavailable, match="no: "):
        reserve(0, "192.0.2.1")
