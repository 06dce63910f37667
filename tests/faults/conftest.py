"""What the tests of the gRPC transport share with the raw ones."""

from http2_fixtures import make_host

__all__ = ["make_host"]
