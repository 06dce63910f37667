"""HPACK as a server must read it (RFC 7541), byte by byte: representations, the dynamic table, Huffman codes, integers."""

import json
from collections.abc import Iterator

import http2_frames as h2
import pytest
from hpack.huffman_table import decode_huffman
from hpack_blocks import INDEXING, NEVER_INDEXED, NOT_INDEXED, RESIZE, indexed, integer, literal, text
from http2_peer import Peer, request_fields

BASE = (
    indexed(3)  # :method POST
    + indexed(6)  # :scheme http
    + literal(4, b"/t.T/Metadata")
    + literal(1, b"localhost")
    + literal(b"te", b"trailers")
    + literal(31, b"application/grpc")
)
"""A request without a trace in the dynamic table."""


def fields_of(peer: Peer, block: bytes) -> dict[str, object]:
    """The metadata the handler sees of a request with this block."""
    stream = peer.next_stream()
    peer.send(h2.headers(stream, block), h2.data(stream, h2.message(b""), h2.END_STREAM))
    return dict(json.loads(peer.answer(stream).data))


@pytest.mark.parametrize("kind", [NOT_INDEXED, NEVER_INDEXED, INDEXING], ids=["not indexed", "never", "indexing"])
def test_a_literal_with_its_name_is_read(peer: Peer, kind: tuple[int, int]) -> None:
    assert fields_of(peer, BASE + literal(b"name", b"value", kind))["name"] == "value"


@pytest.mark.parametrize("kind", [NOT_INDEXED, NEVER_INDEXED, INDEXING], ids=["not indexed", "never", "indexing"])
def test_a_literal_with_an_indexed_name_is_read(peer: Peer, kind: tuple[int, int]) -> None:
    assert fields_of(peer, BASE + literal(58, b"me/1", kind))["user-agent"] == "me/1"


def test_an_entry_is_found_by_its_index_in_the_same_and_in_later_blocks(peer: Peer) -> None:
    assert fields_of(peer, BASE + literal(b"one", b"1", INDEXING))["one"] == "1"
    assert fields_of(peer, BASE + literal(b"two", b"2", INDEXING) + indexed(63))["one"] == "1"
    seen = fields_of(peer, BASE + indexed(62) + indexed(63))
    assert (seen["one"], seen["two"]) == ("1", "2")


def test_only_what_is_to_be_indexed_is(peer: Peer) -> None:
    fields_of(peer, BASE + literal(b"a", b"1", INDEXING))
    fields_of(peer, BASE + literal(b"b", b"2", NOT_INDEXED) + literal(b"c", b"3", NEVER_INDEXED))
    assert fields_of(peer, BASE + indexed(62))["a"] == "1"


def test_the_name_of_a_dynamic_entry_can_be_used(peer: Peer) -> None:
    fields_of(peer, BASE + literal(b"name", b"1", INDEXING))
    assert fields_of(peer, BASE + literal(62, b"2", NOT_INDEXED))["name"] == "2"


def test_a_table_that_is_full_drops_its_oldest_entries(peer: Peer) -> None:
    """Entries cost 32 bytes more than their text: four of 1,024 fill 4,096."""
    value = b"v" * (1024 - 32 - 2)
    for number in range(5):
        fields_of(peer, BASE + literal(b"n%d" % number, value, INDEXING))
    assert [next(iter(set(fields_of(peer, BASE + indexed(62 + i))) & NAMES)) for i in range(4)] == [
        "n4",
        "n3",
        "n2",
        "n1",
    ]
    peer.send(h2.headers(peer.next_stream(), BASE + indexed(66)))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


NAMES = {f"n{number}" for number in range(5)}


def test_an_entry_larger_than_the_table_empties_it(peer: Peer) -> None:
    fields_of(peer, BASE + literal(b"a", b"1", INDEXING))
    assert len(str(fields_of(peer, BASE + literal(b"big", b"x" * 4096, INDEXING))["big"])) == 4096
    peer.send(h2.headers(peer.next_stream(), BASE + indexed(62)))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


def test_an_entry_may_refer_to_the_name_of_the_one_it_drops(peer: Peer) -> None:
    """RFC 7541, 4.4: the name is taken before the entry goes."""
    name = b"n" * 2000
    fields_of(peer, BASE + literal(name, b"1" * 1900, INDEXING))
    assert fields_of(peer, BASE + literal(62, b"2" * 1900, INDEXING))[name.decode()] == "2" * 1900


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_the_table_may_be_resized_within_the_limit(peer: Peer, size: int) -> None:
    assert fields_of(peer, integer(size, RESIZE) + BASE + literal(b"a", b"1", INDEXING))["a"] == "1"
    stream = peer.next_stream()
    peer.send(h2.headers(stream, BASE + indexed(62)), h2.data(stream, h2.message(b""), h2.END_STREAM))
    if size:
        assert dict(json.loads(peer.answer(stream).data))["a"] == "1"
    else:
        peer.expect_connection_error(h2.COMPRESSION_ERROR)


def test_a_smaller_table_drops_entries_at_once_and_for_good(peer: Peer) -> None:
    fields_of(peer, BASE + literal(b"a", b"1", INDEXING))
    fields_of(peer, integer(0, RESIZE) + integer(4096, RESIZE) + BASE)
    peer.send(h2.headers(peer.next_stream(), BASE + indexed(62)))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


def huffman(bits: str) -> bytes:
    """A field whose value has these bits."""
    padded = bits + "1" * (-len(bits) % 8)
    data = int(padded, 2).to_bytes(len(padded) // 8, "big") if padded else b""
    return integer(0, NOT_INDEXED) + text(b"coded") + text(data, huffman=True)


EOS = "1" * 30
A = "00011"

BROKEN = {
    "index 0": indexed(0),
    "the index after the static table": indexed(62),
    "an index far outside": indexed(2**20),
    "a name's index outside": literal(62, b"x", NOT_INDEXED),
    "a name's index outside, to be indexed": literal(200, b"x", INDEXING),
    "a resize after a field": integer(100, RESIZE),
    "a text longer than the block": integer(0, NOT_INDEXED) + integer(10, (7, 0)) + b"short",
    "a value that is missing": integer(0, NOT_INDEXED) + text(b"name"),
    "an integer that does not end": b"\xff\x80",
    "an integer of 64 bits": b"\xff" + b"\xff" * 9 + b"\x01",
    "an integer with a tail of zeros": b"\xff" + b"\x80" * 200 + b"\x00",
    "a length of 2**63": integer(0, NOT_INDEXED) + integer(2**63, (7, 0)),
    "Huffman: EOS": huffman(A + EOS),
    "Huffman: a whole byte of padding": integer(0, NOT_INDEXED) + text(b"a") + text(b"\x1f\xff", huffman=True),
    "Huffman: padding of zeros": integer(0, NOT_INDEXED) + text(b"a") + text(b"\x18", huffman=True),
    "Huffman: half a code": integer(0, NOT_INDEXED) + text(b"a") + text(b"\xff\xfe", huffman=True),
    "Huffman: only padding": integer(0, NOT_INDEXED) + text(b"a") + text(b"\xff", huffman=True),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_block_that_cannot_be_read_ends_the_connection(peer: Peer, name: str) -> None:
    peer.send(h2.headers(peer.next_stream(), BASE + BROKEN[name]))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(integer(4097, RESIZE), id="one more than allowed"),
        pytest.param(integer(2**31, RESIZE), id="giant"),
        pytest.param(integer(100, RESIZE) + integer(5000, RESIZE), id="the second of two"),
        pytest.param(integer(5000, RESIZE) + integer(100, RESIZE), id="the first of two"),
    ],
)
def test_a_table_larger_than_the_settings_allow_ends_the_connection(peer: Peer, start: bytes) -> None:
    allowed = peer.server_settings.get(h2.HEADER_TABLE_SIZE, 4096)
    assert allowed == 4096, "this test knows the default"
    peer.send(h2.headers(peer.next_stream(), start + BASE))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


def every_byte() -> Iterator[bytes]:
    """Values in which every byte a value may have occurs, Huffman codes of all lengths among them."""
    allowed = bytes(byte for byte in range(256) if byte not in b"\0\r\n")
    for start in range(0, len(allowed), 60):
        yield b"<" + allowed[start : start + 60] + b">"


def test_huffman_codes_of_every_byte_are_read(peer: Peer) -> None:
    for value in every_byte():
        block = peer.encoder.huffman_coder.encode(value)
        assert bytes(decode_huffman(block)) == value
        sent = integer(0, NOT_INDEXED) + text(b"coded") + text(block, huffman=True)
        assert fields_of(peer, BASE + sent)["coded"] == value.decode("latin-1")


@pytest.mark.parametrize("length", range(9))
def test_huffman_padding_of_every_length_is_taken(peer: Peer, length: int) -> None:
    value = "a" * length
    assert fields_of(peer, BASE + huffman(A * length))["coded"] == value


def test_a_block_of_a_call_that_was_reset_still_counts(peer: Peer) -> None:
    stream = peer.next_stream()
    peer.send(h2.headers(stream, BASE + literal(b"a", b"1", INDEXING)), h2.rst_stream(stream))
    assert fields_of(peer, BASE + indexed(62))["a"] == "1"


def test_a_block_of_a_call_that_was_refused_still_counts(peer: Peer) -> None:
    stream = peer.next_stream()
    peer.send(h2.headers(stream, BASE + literal(b"Upper", b"1", INDEXING) + literal(b"a", b"1", INDEXING)))
    peer.expect_stream_error(stream, h2.PROTOCOL_ERROR)
    assert fields_of(peer, BASE + indexed(62))["a"] == "1"


def test_a_block_of_trailers_still_counts(peer: Peer) -> None:
    stream = peer.open("/t.T/Echo")
    peer.encoder.header_table_size = 0  # this peer's own encoder stays out of the table from here on
    peer.send_message(stream, b"x")
    peer.send(h2.headers(stream, literal(b"a", b"1", INDEXING), h2.END_HEADERS | h2.END_STREAM))
    assert peer.answer(stream).data == b"x"
    assert fields_of(peer, BASE + indexed(62))["a"] == "1"


def test_repeated_blocks_are_read_anew_after_the_table_has_changed(peer: Peer) -> None:
    """The same bytes mean something else once an entry has moved: a cache of blocks must know."""
    fields_of(peer, BASE + literal(b"a", b"1", INDEXING))
    block = BASE + indexed(62)
    assert [fields_of(peer, block).get("a") for _ in range(3)] == ["1"] * 3
    fields_of(peer, BASE + literal(b"b", b"2", INDEXING))
    seen = fields_of(peer, block)
    assert (seen.get("a"), seen.get("b")) == (None, "2")


def test_repeated_blocks_that_index_fill_the_table_each_time(peer: Peer) -> None:
    fields_of(peer, BASE + literal(b"first", b"1", INDEXING))
    block = BASE + literal(b"a", b"x" * 100, INDEXING)
    for repeated in range(1, 10):
        assert fields_of(peer, block)["a"] == "x" * 100
        assert fields_of(peer, BASE + indexed(62 + repeated))["first"] == "1"
    for _ in range(40):  # more than the table holds
        fields_of(peer, block)
    peer.send(h2.headers(peer.next_stream(), BASE + indexed(62 + 49)))
    peer.expect_connection_error(h2.COMPRESSION_ERROR)


def test_connections_do_not_share_their_tables(connect) -> None:
    first, second = connect(), connect()
    fields_of(first, BASE + literal(b"a", b"1", INDEXING))
    second.send(h2.headers(second.next_stream(), BASE + indexed(62)))
    second.expect_connection_error(h2.COMPRESSION_ERROR)
    assert fields_of(first, BASE + indexed(62))["a"] == "1"


def test_an_honest_encoder_is_understood_over_many_calls(peer: Peer) -> None:
    """Names and values that come, go and come again, through hpack's own encoder with its table and its Huffman codes."""
    for number in range(300):
        sent = {f"key-{number % 7}": f"value {number}", "user": f"user-{number % 50}", "trace": str(number * 7919)}
        stream = peer.next_stream()
        block = peer.encoder.encode([*request_fields("/t.T/Metadata"), *sent.items()])
        peer.send(h2.headers(stream, block), h2.data(stream, h2.message(b""), h2.END_STREAM))
        seen = dict(json.loads(peer.answer(stream).data))
        assert {name: seen.get(name) for name in sent} == sent
