"""One native server for all raw tests."""

from http2_fixtures import bystander, connect, host, make_host, peer, shared_host

__all__ = ["bystander", "connect", "host", "make_host", "peer", "shared_host"]
