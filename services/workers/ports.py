"""Ports that several processes share: reserved once, so that 0 means one port for all and a taken one is noticed."""

import socket
from typing import Protocol

from services.errors import CornetError


class Refusal(Protocol):
    """Makes the error for an address that cannot be had, from the system's reason."""

    def __call__(self, reason: str) -> CornetError: ...


def reserve(host: str, port: int, refusal: Refusal) -> socket.socket:
    """A socket bound to the address (port 0: one of the system's choosing) that listens to nothing and accepts nothing.

    As long as it is open the port is ours, and every process of this user may bind it with SO_REUSEPORT. Raises
    `refusal` where the address is taken, by another server that shares its ports too, or is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = host.strip("[]")
    try:
        if port:
            # With SO_REUSEPORT alone a second supervisor would get the port, and half of the connections.
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                probe.listen(1)
        holder = socket.socket(family)
    except OSError as error:
        raise refusal(str(error.strerror or error)) from error
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((address, port))
    except OSError as error:
        holder.close()
        raise refusal(str(error.strerror or error)) from error
    return holder


def authority(holder: socket.socket, host: str) -> str:
    """`host:port` of a reserved port, an IPv6 address in brackets."""
    port = holder.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
