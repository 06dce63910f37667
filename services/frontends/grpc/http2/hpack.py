"""Header blocks (HPACK, RFC 7541): a decoder for the blocks of clients, and the literals that answers are made of.

The decoder is the `hpack` package's in what it accepts (the tests hold it to that), at a quarter of its time: it makes no
object per field but the field, and remembers the Huffman strings it has seen. The static table is the package's.
"""

from collections import deque
from typing import TypeAlias

from hpack.table import HeaderTable

from services.frontends.grpc.http2 import huffman

Field: TypeAlias = tuple[bytes, bytes, int]
"""Name, value, and the size they count for: 32 more than their lengths (RFC 7541 4.1)."""

ENTRY_BYTES = 32
DEFAULT_TABLE_BYTES = 4096

_STATIC: tuple[Field | None, ...] = (
    None,
    *((name, value, len(name) + len(value) + ENTRY_BYTES) for name, value in HeaderTable.STATIC_TABLE),
)
_FIRST_DYNAMIC = len(_STATIC)
_MAX_INTEGER_BYTES = 5

_MAX_KEPT = 1024
_MAX_KEPT_BYTES = 128
_STRINGS: dict[bytes, bytes] = {}
"""Huffman strings seen lately, of all connections; emptied when it is full."""


class HpackError(ValueError):
    """A block that no table can decode. The connection's state is lost with it: COMPRESSION_ERROR."""


class Decoder:
    """One direction of one connection: blocks in the order they came.

    `limit` is the table size that the peer may use. `changes` counts what was done to the table: where a block left it as
    it was, the same bytes decode to the same fields until it next moves.
    """

    __slots__ = ("_size", "_table", "_table_bytes", "changes", "limit")

    def __init__(self, limit: int = DEFAULT_TABLE_BYTES) -> None:
        self.limit = limit
        self.changes = 0
        self._table: deque[Field] = deque()
        self._table_bytes = min(limit, DEFAULT_TABLE_BYTES)
        self._size = 0

    def decode(self, block: bytes, max_list_bytes: int) -> tuple[list[Field], int]:
        """The fields, and the size of the whole list; where that is over `max_list_bytes`, fields beyond it are left out.

        Raises HpackError.
        """
        try:
            return self._decode(block, max_list_bytes)
        except IndexError:
            raise HpackError("a field is cut off, or its index is not in the table") from None

    def _decode(  # noqa: C901, PLR0912 - no call per field
        self, block: bytes, max_list_bytes: int
    ) -> tuple[list[Field], int]:
        fields: list[Field] = []
        table, first_dynamic = self._table, _FIRST_DYNAMIC
        total = 0
        i = self._resize(block) if self._table_bytes > self.limit or (block and block[0] & 0xE0 == 0x20) else 0
        end = len(block)
        while i < end:
            head = block[i]
            i += 1
            if head & 0x80:
                index = head & 0x7F
                if index == 0x7F:
                    index, i = _integer(block, i, 0x7F)
                field = _STATIC[index] if index < first_dynamic else table[index - first_dynamic]
                if field is None:
                    raise HpackError("index 0 names no field")
            else:
                if head & 0x40:
                    prefix = 0x3F
                elif head & 0x20:
                    raise HpackError("the table is resized after the first field")
                else:
                    prefix = 0x0F
                index = head & prefix
                if index == 0:
                    name, i = _string(block, i)
                else:
                    if index == prefix:
                        index, i = _integer(block, i, prefix)
                    named = _STATIC[index] if index < first_dynamic else table[index - first_dynamic]
                    name = named[0]  # type: ignore[index] # index 0 was the case before
                value, i = _string(block, i)
                field = (name, value, len(name) + len(value) + ENTRY_BYTES)
                if prefix == 0x3F:
                    self._insert(field)
            total += field[2]
            if total <= max_list_bytes:
                fields.append(field)
        return fields, total

    def _resize(self, block: bytes) -> int:
        """Take the table sizes that a block may begin with; where its fields begin."""
        i = 0
        while i < len(block) and block[i] & 0xE0 == 0x20:
            size = block[i] & 0x1F
            i += 1
            if size == 0x1F:
                size, i = _integer(block, i, 0x1F)
            if size > self.limit:
                raise HpackError("the table is made larger than it may be")
            self._table_bytes = size
            self._evict(size)
        if self._table_bytes > self.limit:
            raise HpackError("the table was to be made smaller, and was not")
        return i

    def _insert(self, field: Field) -> None:
        self.changes += 1
        size = field[2]
        room = self._table_bytes - size
        if self._size > room:
            self._evict(room)
        if room >= 0:
            self._table.appendleft(field)
            self._size += size

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until what is left fits `room` bytes."""
        self.changes += 1
        table = self._table
        while table and self._size > room:
            self._size -= table.pop()[2]


def _integer(block: bytes, i: int, prefix: int) -> tuple[int, int]:
    """An integer that did not fit its prefix (RFC 7541 5.1), and where it ends."""
    value, shift = prefix, 0
    for _ in range(_MAX_INTEGER_BYTES):
        byte = block[i]
        i += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, i
        shift += 7
    raise HpackError("an integer is too long")


def _string(block: bytes, i: int) -> tuple[bytes, int]:
    """A string literal (RFC 7541 5.2), and where it ends."""
    head = block[i]
    i += 1
    size = head & 0x7F
    if size == 0x7F:
        size, i = _integer(block, i, 0x7F)
    end = i + size
    data = block[i:end]
    if end > len(block):
        raise HpackError("a string is cut off")
    if not head & 0x80:
        return data, end
    text = _STRINGS.get(data)
    if text is None:
        try:
            text = huffman.decode(data)
        except huffman.HuffmanError as error:
            raise HpackError(str(error)) from None
        if size <= _MAX_KEPT_BYTES:
            if len(_STRINGS) >= _MAX_KEPT:
                _STRINGS.clear()
            _STRINGS[data] = text
    return text, end


def integer(value: int, prefix: int, flags: int = 0) -> bytes:
    """An integer whose first byte has `flags` and a prefix of all-ones value `prefix`."""
    if value < prefix:
        return bytes((flags | value,))
    out = bytearray((flags | prefix,))
    value -= prefix
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(data: bytes) -> bytes:
    """A string literal, not Huffman-coded: the peer decodes it faster."""
    return integer(len(data), 0x7F) + data


def literal(name: bytes, value: bytes) -> bytes:
    """A field with its name in full, that enters no table."""
    return b"\x00" + string(name) + string(value)


def inserted(name: bytes, value: bytes) -> bytes:
    """A field with its name in full, that enters the peer's table."""
    return b"\x40" + string(name) + string(value)
