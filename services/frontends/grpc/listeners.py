"""Listening sockets of the native gRPC transport: TCP addresses, and a unix socket's path."""

import errno
import os
import socket
import stat
from pathlib import Path

from services.errors import Unavailable
from services.frontends.acceptor import BACKLOG


def listen(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets, one per address of the host, all on one port; 0 is a free one. Raises Unavailable."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(BACKLOG)  # another process that is bound to the port as well may only now be found out
            port = listener.getsockname()[1]
    except OSError as error:
        _close(bound)
        raise Unavailable(
            f"Cannot listen for gRPC on {_shown(host)}:{port}: expected a free port on an address of this machine."
        ) from error
    return bound


def listen_unix(path: Path) -> socket.socket:
    """A bound unix socket that only this user may connect to. One that nobody listens on any more is replaced.

    Raises Unavailable where somebody does, where the path is another kind of file, or cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as error:
        listener.close()
        raise Unavailable(f"Cannot listen for gRPC on {path}: {error.strerror or error}.") from error
    except Unavailable:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def remove_stale(path: Path) -> None:
    """Remove a unix socket that nobody listens on. Raises Unavailable where somebody does, or where it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"Cannot listen for gRPC on {path}: expected a unix socket or nothing there.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise Unavailable(f"Cannot listen for gRPC on {path}: another server listens there.")
    path.unlink(missing_ok=True)


def _close(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
