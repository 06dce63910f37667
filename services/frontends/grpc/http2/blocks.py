"""The header blocks of one connection: put together from their frames, decoded, and remembered."""

from services import errors
from services.frontends.grpc.http2.frames import (
    COMPRESSION_ERROR,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PADDED,
    PRIORITISED,
    PROTOCOL_ERROR,
    ConnectionFault,
)
from services.frontends.grpc.http2.headers import HeadReader, TimedHead, is_grpc, refused
from services.frontends.grpc.http2.hpack import DEFAULT_TABLE_BYTES, Decoder, Field, HpackError
from services.frontends.grpc.http2.limits import Limits

_MAX_KEPT = 64
_MAX_KEPT_BYTES = 1024
_PRIORITY_BYTES = 5


class HeaderBlocks:
    """Blocks in the order they came.

    `kept` has the heads of blocks that left the HPACK table as it was: until it changes, the same bytes mean the same.
    `open_stream` is the stream whose block has begun and not ended, 0 where there is none.
    """

    __slots__ = ("_block", "_decoder", "_flags", "_frames", "_limits", "_reader", "kept", "open_stream")

    def __init__(self, reader: HeadReader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        # A client may fill the usual table until it has heard of a smaller one.
        self._decoder = Decoder(max(limits.header_table_bytes, DEFAULT_TABLE_BYTES))
        self.kept: dict[bytes, TimedHead] = {}
        self.open_stream = 0
        self._block = bytearray()
        self._flags = self._frames = 0

    def settings_acknowledged(self) -> None:
        """The client knows how large its table may be."""
        self._decoder.limit = self._limits.header_table_bytes

    def begin(self, sid: int, flags: int, payload: bytes) -> bytes | None:
        """HEADERS with padding, a priority, or more to come: the block, or None where it has only begun."""
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITISED:
            if len(payload) < _PRIORITY_BYTES:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS without room for its priority")
            payload = payload[_PRIORITY_BYTES:]
        if flags & END_HEADERS:
            return payload
        self.open_stream, self._flags, self._frames = sid, flags, 0
        self._block = bytearray(payload)
        return None

    def extend(self, flags: int, payload: bytes) -> tuple[int, bytes] | None:
        """CONTINUATION: the flags of the block's HEADERS and the block, or None where it has not ended yet."""
        if not self.open_stream:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block += payload
        self._frames += 1
        if self._frames > self._limits.max_continuations or len(self._block) > self._limits.max_header_block_bytes:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too long")
        if not flags & END_HEADERS:
            return None
        self.open_stream = 0
        return self._flags, bytes(self._block)

    def decode(self, block: bytes) -> tuple[list[Field], int]:
        """Fields and size, as `Decoder.decode`. Raises ConnectionFault."""
        decoder = self._decoder
        changes = decoder.changes
        try:
            return decoder.decode(block, self._limits.max_header_list_bytes)
        except HpackError as error:
            raise ConnectionFault(COMPRESSION_ERROR, str(error)) from None
        finally:
            if decoder.changes != changes:
                self.kept.clear()

    def head(self, block: bytes) -> TimedHead:
        """The head of a request. Raises StreamFault where it is malformed, and ConnectionFault as `decode`."""
        changes, limit = self._decoder.changes, self._limits.max_header_list_bytes
        fields, size = self.decode(block)
        if size > limit:
            text = f"Received header list larger than max ({size} vs. {limit})"
            return refused(200 if is_grpc(fields) else 431, errors.RESOURCE_EXHAUSTED, text), None
        head = self._reader.read(fields, size)
        if self._decoder.changes == changes and len(block) <= _MAX_KEPT_BYTES:
            if len(self.kept) >= _MAX_KEPT:
                self.kept.clear()
            self.kept[block] = head
        return head


def unpadded(payload: bytes) -> bytes:
    """The content of a padded frame. Raises ConnectionFault where there is less of it than padding."""
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without its padding's length")
    size = len(payload) - payload[0]
    if size < 1:
        raise ConnectionFault(PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1:size]
