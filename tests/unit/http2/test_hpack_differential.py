"""Our reading of header blocks against the `hpack` package's: the same fields, or the same refusal, block after block."""

import hpack
import hpack_blocks as blocks
import pytest
from fuzzing import fuzzed
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import example, given
from hypothesis import strategies as st

from services.frontends.grpc.http2 import huffman
from services.frontends.grpc.http2.hpack import Decoder, HpackError

MAX_LIST_BYTES = 2**20
MAX_INTEGER_BYTES = 6
"""Ours refuses integers of more bytes, as RFC 7541, 5.1 lets it; the package reads any number of them."""

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

small = st.binary(max_size=12)
strings = st.one_of(
    small.map(blocks.text),
    small.map(lambda data: blocks.text(HUFFMAN.encode(data), huffman=True)),
    st.binary(min_size=100, max_size=300).map(blocks.text),
)
positions = st.one_of(st.integers(0, 75), st.integers(0, 2**20))
literals = st.builds(
    lambda kind, position, name, value: blocks.integer(position, kind) + (name if position == 0 else b"") + value,
    st.sampled_from([blocks.NOT_INDEXED, blocks.NEVER_INDEXED, blocks.INDEXING]),
    st.one_of(st.just(0), positions),
    strings,
    strings,
)
fields = st.one_of(positions.map(blocks.indexed), literals, literals, literals)
resizes = st.sampled_from([0, 1, 60, 200, 4096, 4096, 4097]).map(blocks.resized)
plain = st.builds(
    lambda starts, body: b"".join(starts + body),
    st.one_of(st.just([]), st.lists(resizes, max_size=2)),
    st.lists(fields, max_size=8),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A block of which a byte is changed, lost or added."""
    block = bytearray(draw(plain))
    if block:
        at = draw(st.integers(0, len(block) - 1))
        block[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(block)


def ours(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        found, size = decoder.decode(block, MAX_LIST_BYTES)
    except HpackError:
        return None
    assert size == sum(len(name) + len(value) + 32 for name, value, _ in found)
    return [(bytes(name), bytes(value)) for name, value, _ in found]


def theirs(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def has_long_integer(block: bytes) -> bool:
    """Whether there might be an integer that only the package reads."""
    run = 0
    for byte in block:
        run = run + 1 if byte >= 0x80 else 0
        if run >= MAX_INTEGER_BYTES - 1:
            return True
    return False


@fuzzed(200)
@given(st.lists(st.one_of(plain, plain, damaged(), st.binary(max_size=40)), min_size=1, max_size=6))
@example([blocks.literal(b"a", b"1", blocks.INDEXING), blocks.indexed(62), blocks.resized(0), blocks.indexed(62)])
@example([blocks.resized(4097)])
@example([blocks.indexed(0)])
def test_blocks_are_read_as_the_package_reads_them(sent: list[bytes]) -> None:
    """Up to the first that is refused: the connection ends there."""
    mine, reference = Decoder(4096), hpack.Decoder(max_header_list_size=MAX_LIST_BYTES)
    for block in sent:
        got, want = ours(mine, block), theirs(reference, block)
        if got is None and want is not None:
            assert has_long_integer(block), block.hex()
        else:
            assert got == want, block.hex()
        if got is None:
            return


@fuzzed(80)
@given(st.lists(st.lists(st.tuples(small, small), max_size=10), max_size=10), st.integers(0, 4096))
def test_what_the_package_writes_is_read_back(lists: list[list[tuple[bytes, bytes]]], table_size: int) -> None:
    writer, reader = hpack.Encoder(), Decoder(4096)
    writer.header_table_size = table_size
    for fields_ in lists:
        assert ours(reader, writer.encode(fields_)) == fields_


@fuzzed(200)
@given(st.binary(max_size=80))
def test_huffman_codes_are_read_as_the_package_reads_them(data: bytes) -> None:
    assert huffman.decode(HUFFMAN.encode(data)) == data
    try:
        want = bytes(decode_huffman(data))
    except hpack.HPACKError:
        with pytest.raises(huffman.HuffmanError):
            huffman.decode(data)
    else:
        assert huffman.decode(data) == want
