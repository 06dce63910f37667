"""Where the native transport listens."""

import socket
import stat
from pathlib import Path

import pytest

from services.errors import InvalidArgument, Unavailable
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.listeners import listen, listen_unix


def test_every_address_of_a_name_has_the_same_port() -> None:
    bound = listen("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in bound}) == 1
    finally:
        for listener in bound:
            listener.close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host"])
def test_an_address_of_another_machine_is_unavailable(host: str) -> None:
    with pytest.raises(Unavailable, match="expected a free port on an address of this machine"):
        listen(host, 0)


def test_a_port_is_shared_only_by_those_who_say_so() -> None:
    [first] = listen("127.0.0.1", 0, reuse_port=True)
    port = first.getsockname()[1]
    [second] = listen("127.0.0.1", port, reuse_port=True)
    with pytest.raises(Unavailable):
        listen("127.0.0.1", port)
    first.close()
    second.close()


def test_a_unix_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    listener = listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.listen()
    with pytest.raises(Unavailable, match="another server listens there"):
        listen_unix(path)
    listener.close()
    listen_unix(path).close()


def test_a_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(Unavailable, match="expected a unix socket or nothing"):
        listen_unix(path)
    assert path.read_text() == "mine"


def test_a_path_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        listen_unix(tmp_path / "none" / "grpc.sock")
    with socket.socket(socket.AF_UNIX), pytest.raises(Unavailable):
        listen_unix(tmp_path / ("x" * 200))


def test_a_window_below_what_every_client_may_send_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="65535"):
        Limits(connection_window_bytes=65_534)
