"""Fixtures around a native server on a thread: it is looked at after each test, for what a peer may have left behind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from grpc_host import Host
from http2_peer import Peer

from services.frontends.grpc.http2.limits import Limits

PATIENT = Limits(max_ping_strikes=10_000)
"""The peer's PINGs, which ask whether all was taken in, are no keepalive."""


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    with Host("native", limits=PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def bystander(shared_host: Host) -> Iterator[Peer]:
    """An honest client of the same server, connected before the first test and served after each."""
    with Peer(shared_host.address) as peer:
        peer.expect_served()
        yield peer


@pytest.fixture
def host(shared_host: Host, bystander: Peer) -> Iterator[Host]:
    """The server. After the test no call, stream or connection of it is left, nothing was logged as an error, and the
    bystander is served.
    """
    yield shared_host
    shared_host.settle(lambda: shared_host.unfinished == 0, "no call left over")
    shared_host.settle(lambda: shared_host.connections() == 1, "no connection left over but the bystander's")
    shared_host.forget()
    bystander.expect_served()
    problems, shared_host.problems[:] = list(shared_host.problems), []
    assert problems == []


@pytest.fixture
def connect(host: Host) -> Iterator[Callable[..., Peer]]:
    """`connect(**options)`: a peer that is closed at the end of the test."""
    with ExitStack() as peers:
        yield lambda **options: peers.enter_context(Peer(host.address, **options))


@pytest.fixture
def peer(connect: Callable[..., Peer]) -> Peer:
    """A connection whose preface is through."""
    made = connect()
    made.expect_alive()
    return made


@pytest.fixture
def make_host() -> Iterator[Callable[..., Host]]:
    """`make_host(**limits)`: a server of the test's own, with bounds it can reach. Nothing may be logged as an error."""
    hosts: list[Host] = []
    with ExitStack() as running:

        def make(*, options: dict[str, Any] | None = None, **limits: Any) -> Host:
            bounds = Limits(**({"max_ping_strikes": 10_000} | limits))
            hosts.append(running.enter_context(Host("native", limits=bounds, **(options or {}))))
            return hosts[-1]

        yield make
    assert [host.problems for host in hosts] == [[]] * len(hosts)
