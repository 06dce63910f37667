"""gRPC's length-prefixed messages, and what decompression may cost."""

import gzip
import zlib

import pytest

from services.errors import Internal, InvalidArgument, ResourceExhausted
from services.frontends.grpc.http2.messages import check_encoding, compressed, decompressed, read_prefix

LIMIT = 1000
CONTENT = b"z" * LIMIT


def test_a_prefix_says_how_long_its_message_is() -> None:
    assert read_prefix(b"\0\0\0\3\xe8", "identity", LIMIT) == LIMIT
    assert read_prefix(b"\1\0\0\0\0", "gzip", LIMIT) == 0


def test_a_message_over_the_bound_is_refused_before_it_comes() -> None:
    with pytest.raises(ResourceExhausted, match=r"larger than max \(1001 vs\. 1000\)"):
        read_prefix(b"\0\0\0\3\xe9", "identity", LIMIT)


@pytest.mark.parametrize(("prefix", "encoding"), [(b"\2\0\0\0\0", "gzip"), (b"\1\0\0\0\0", "identity")])
def test_a_flag_that_means_nothing_is_an_error(prefix: bytes, encoding: str) -> None:
    with pytest.raises(Internal):
        read_prefix(prefix, encoding, LIMIT)


@pytest.mark.parametrize(
    ("encoding", "data"), [("gzip", gzip.compress(CONTENT, mtime=0)), ("deflate", zlib.compress(CONTENT))]
)
def test_both_encodings_are_read_up_to_the_bound(encoding: str, data: bytes) -> None:
    assert decompressed(data, encoding, LIMIT) == CONTENT
    with pytest.raises(ResourceExhausted):
        decompressed(data, encoding, LIMIT - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_written_is_read(encoding: str) -> None:
    assert decompressed(compressed(CONTENT, encoding), encoding, LIMIT) == CONTENT


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(CONTENT, mtime=0)[:-1], gzip.compress(CONTENT, mtime=0) + b"more"]
)
def test_what_is_not_what_its_encoding_says_is_an_error(data: bytes) -> None:
    with pytest.raises(Internal):
        decompressed(data, "gzip", LIMIT)


def test_compressions_of_answers_have_names() -> None:
    check_encoding(None)
    check_encoding("gzip")
    with pytest.raises(InvalidArgument, match="out of gzip, deflate"):
        check_encoding("br")
