"""Header blocks are decoded as RFC 7541 has them, and what the decoder remembers never changes what they mean."""

import pytest
from hpack import Decoder as Reference
from hpack import Encoder

from services.frontends.grpc.http2 import hpack, huffman
from services.frontends.grpc.http2.hpack import Decoder, HpackError, inserted, integer, literal

BIG = 2**20
GO = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/M"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def pairs(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    fields, size = decoder.decode(block, BIG)
    assert size == sum(field[2] for field in fields)
    return [(name, value) for name, value, _ in fields]


# RFC 7541 appendix C.4: three requests on one connection, Huffman-coded, each on the table the others left.
C_4 = [
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", [(b":authority", b"www.example.com")]),
    ("828684be5886a8eb10649cbf", [(b":authority", b"www.example.com"), (b"cache-control", b"no-cache")]),
    (
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        [(b":authority", b"www.example.com"), (b"custom-key", b"custom-value")],
    ),
]


def test_the_examples_of_the_rfc() -> None:
    decoder = Decoder()
    for block, expected in C_4:
        assert pairs(decoder, bytes.fromhex(block))[3:] == expected


def test_a_client_that_gives_every_timeout_an_entry_wraps_the_table_and_is_still_understood() -> None:
    encoder, decoder = Encoder(), Decoder()
    for number in range(500):
        sent = [*GO, ("grpc-timeout", f"{9_999_000 - 7 * number}u")]
        assert pairs(decoder, encoder.encode(sent)) == [(n.encode(), v.encode()) for n, v in sent]


def test_the_same_bytes_mean_the_same_only_until_the_table_changes() -> None:
    decoder = Decoder()
    pairs(decoder, inserted(b"a", b"1"))
    before = decoder.changes
    assert pairs(decoder, b"\xbe") == [(b"a", b"1")]
    assert decoder.changes == before
    pairs(decoder, inserted(b"b", b"2"))
    assert decoder.changes != before
    assert pairs(decoder, b"\xbe") == [(b"b", b"2")]


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(limit=64)
    pairs(decoder, inserted(b"a", b"1"))
    pairs(decoder, inserted(b"b", b"2" * 64))
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe", BIG)


def test_fields_beyond_the_bound_are_counted_and_not_kept() -> None:
    decoder = Decoder()
    decoder.decode(inserted(b"a", b"v" * 1000), BIG)
    fields, size = decoder.decode(b"\xbe" * 10_000, 4000)
    assert len(fields) == 3
    assert size == 10_000 * 1033


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "not in the table"),
        (b"\xff\x80\x80\x80\x80\x80\x01", "too long"),
        (b"\xff", "cut off"),
        (b"\x00\x05ab", "cut off"),
        (b"\x00\x01a", "cut off"),
        (b"\x82\x20", "after the first field"),
        (b"\x3f\xe2\x1f", "larger than it may"),
        (b"\x00\x01a\x84\xff\xff\xff\xff", "end-of-string"),
        (b"\x00\x01a\x81\x00", "padding"),
        (b"\x00\x01a\x82\x1f\xff", "padding"),
    ],
)
def test_what_no_table_decodes_is_an_error(block: bytes, why: str) -> None:
    with pytest.raises(HpackError, match=why):
        Decoder().decode(block, BIG)


def test_a_table_must_be_made_smaller_once_the_client_knows() -> None:
    decoder = Decoder()
    decoder.limit = 100
    with pytest.raises(HpackError, match="smaller"):
        decoder.decode(b"\x82", BIG)


@pytest.mark.parametrize(
    "text", [b"", b"a", b"/inference.GRPCInferenceService/ModelInfer", bytes(range(256)), b"\xff" * 50]
)
def test_the_huffman_code_reads_what_the_library_writes(text: bytes) -> None:
    encoded = Encoder().huffman_coder.encode(text)
    assert huffman.decode(encoded) == text


def test_remembered_strings_are_bounded() -> None:
    encoder, decoder = Encoder(), Decoder()
    for number in range(3000):
        decoder.decode(encoder.encode([("k", f"value {number}")]), BIG)
    assert len(hpack._STRINGS) <= hpack._MAX_KEPT


@pytest.mark.parametrize("value", [0, 1, 30, 31, 126, 127, 128, 16_383, 16_384, 2**28])
def test_lengths_of_all_sizes_are_written_as_they_are_read(value: int) -> None:
    if value < 2**16:
        block = literal(b"k", b"v" * value)
        assert [tuple(field) for field in Reference(max_header_list_size=BIG).decode(block, raw=True)] == [
            (b"k", b"v" * value)
        ]
    written = integer(value, 0x7F)
    assert written[0] == value if value < 0x7F else hpack._integer(written, 1, 0x7F) == (value, len(written))
