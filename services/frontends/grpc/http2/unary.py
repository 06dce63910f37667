"""Streams of unary methods: a request that is still arriving, and the call it becomes."""

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, cast

from services.errors import CornetError, DeadlineExceeded, Internal, PayloadTooLarge, Unimplemented
from services.frontends.grpc.call import Call, MetadataPairs, UnaryMethod
from services.frontends.grpc.http2 import messages
from services.frontends.grpc.http2.frames import (
    CANCEL,
    FLOW_CONTROL_ERROR,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    StreamFault,
)
from services.frontends.grpc.http2.headers import Head
from services.frontends.grpc.http2.messages import PREFIX_BYTES
from services.telemetry.exchange import REQUEST_ID, new_request_id
from services.telemetry.log import get_logger
from services.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from services.frontends.grpc.http2.streams import Streams

_PREFIX = Struct(">BI")

_log = get_logger("cornet.grpc")

UNKNOWN_SIZE = -1
OFFLOADED_BYTES = 2**16
"""Compressed messages beyond this are decompressed in a thread: a few hundred bytes may stand for a megabyte."""


class Receiving:
    """A request until its last byte. It holds what came of the message, and no more than the limits say."""

    pending: deque[memoryview] | None = None
    tail: bytes | None = None
    backlog = 0
    queued = False
    waits = False
    remote_closed = False
    _size = 0
    _held = 0
    _needed = UNKNOWN_SIZE

    def __init__(self, connection: "Streams", sid: int, head: Head, deadline: float | None) -> None:
        self._connection = connection
        self.sid = sid
        self.head = head
        self.deadline = deadline
        self.send_window = connection.sender.initial_window
        self.recv_window = connection.stream_window
        self._buffer: bytearray | None = None

    def data(self, buffer: bytes, start: int, stop: int, frame_bytes: int, last: int) -> None:
        """A DATA frame: where its content is, and what it counts for in flow control. Raises StreamFault."""
        connection = self._connection
        content_bytes = stop - start
        if last and self._buffer is None and content_bytes >= PREFIX_BYTES:
            is_compressed, size = _PREFIX.unpack_from(buffer, start)
            if (
                not is_compressed
                and size == content_bytes - PREFIX_BYTES
                and frame_bytes <= connection.whole_bytes
                and self.head.content_length in (None, content_bytes)
            ):
                connection.serve(self, buffer[start + PREFIX_BYTES : stop])
                return
        content = buffer[start:stop]
        self.recv_window -= frame_bytes
        if self.recv_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window is exceeded")
        self.remote_closed = bool(last)
        try:
            if content:
                self._take(content)
            if last:
                self._finish()
                return
        except CornetError as error:
            self.refuse(error)
            return
        window = connection.stream_window
        if self.recv_window < window // 2 and self._size != self._needed:
            connection.replenish(self.sid, window - self.recv_window)
            self.recv_window = window

    def end(self) -> None:
        """The client's trailers."""
        self.remote_closed = True
        try:
            self._finish()
        except CornetError as error:
            self.refuse(error)

    def gone(self) -> None:
        """The client reset the stream, or the connection is lost."""
        self._release()

    def expire(self) -> None:
        """The deadline has passed."""
        self.refuse(DeadlineExceeded("Deadline Exceeded"))

    def abort(self, error: CornetError) -> None:
        """The server ends the call."""
        self.refuse(error)

    def refuse(self, error: CornetError) -> None:
        self._release()
        self._connection.sender.fail(self, error.code, str(error))

    def drained(self) -> None:
        """Nothing is ever pending here."""

    def _take(self, content: bytes) -> None:
        connection = self._connection
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += content
        self._size += len(content)
        if self._needed == UNKNOWN_SIZE and self._size >= PREFIX_BYTES:
            prefix = bytes(self._buffer[:PREFIX_BYTES])
            size = messages.read_prefix(prefix, self.head.encoding, connection.context.max_message_bytes)
            self._needed = PREFIX_BYTES + size
        if UNKNOWN_SIZE < self._needed < self._size:
            raise Unimplemented("Expected one message in a unary call. Received: more.")
        if not self.remote_closed:
            self._held += len(content)
            if not connection.context.receive(len(content)):
                raise PayloadTooLarge("The server holds as much of unfinished requests as it may. Try again later.")

    def _finish(self) -> None:
        length = self.head.content_length
        if length is not None and length != self._size:
            raise StreamFault(PROTOCOL_ERROR, "content-length is not what was sent")
        if self._size == 0:
            raise Unimplemented("Expected one message in a unary call. Received: none.")
        if self._size != self._needed:
            raise Internal("The request ends in the middle of its message.")
        buffer = self._buffer or bytearray()
        with memoryview(buffer) as view:
            data = bytes(view[PREFIX_BYTES:])
        self._release()
        self._connection.begin(self, data, compressed=buffer[0] == 1)

    def _release(self) -> None:
        self._buffer = None
        self._connection.context.receive(-self._held)
        self._held = 0


class NativeCall(Call):
    """A unary call with its whole request; as a stream, it is half closed until it is answered."""

    pending: deque[memoryview] | None = None
    tail: bytes | None = None
    backlog = 0
    queued = False
    waits = False
    remote_closed = True

    def __init__(self, connection: "Streams", sid: int, send_window: int, head: Head, deadline: float | None) -> None:
        # What Call's own does, but for all calls of a read at once, and what can be looked up later is.
        self._connection = connection
        self.sid = sid
        self.send_window = send_window
        self.head = head
        self.deadline = deadline
        self.started_at = connection.read_at
        if head.method is not connection.arriving:
            connection.count_arrivals()
            connection.arriving = self.method
        connection.arrivals += 1

    @property
    def metrics(self) -> Metrics:  # type: ignore[override] # a call's never change
        return self._connection.context.metrics

    @property
    def method(self) -> UnaryMethod:  # type: ignore[override] # as above
        return cast("UnaryMethod", self.head.method)

    @property
    def headers(self) -> MetadataPairs:  # type: ignore[override] # as above
        return self.head.metadata

    def data(self, buffer: bytes, start: int, stop: int, frame_bytes: int, last: int) -> None:
        """Never called: what comes after END_STREAM is refused before."""

    def end(self) -> None:
        """As `data`."""

    def gone(self) -> None:
        """The client reset the stream, or the connection is lost."""
        self._connection.sender.drop(self)
        self.cancel()

    def expire(self) -> None:
        """The deadline has passed: withdraw the work, and say so; or, where the answer is on its way, stop sending it."""
        self.abort(DeadlineExceeded("Deadline Exceeded"))

    def abort(self, error: CornetError) -> None:
        """The server ends the call."""
        if self._finished:
            self._connection.sender.reset(self, CANCEL)
            return
        self.fail(error)
        if self.work is not None:
            self.work.cancel()

    def drained(self) -> None:
        """A unary answer has its tail from the start, and ends when it is drained."""

    def run_answered(self) -> None:
        self._connection.context.outbox.flush()

    @property
    def request_id(self) -> str:
        """The client's where it has a fit one, else one of ours."""
        if not self._request_id:
            self._request_id = self.head.request_id or new_request_id().decode()
        return self._request_id

    def _send(self, data: bytes) -> None:
        connection = self._connection
        sender, context = connection.sender, connection.context
        asked = self._request_id or self.head.request_id
        request_id = asked.encode() if asked else new_request_id()
        try:
            if sender.backlog and sender.backlog + len(data) > context.limits.max_sending_bytes:
                text = (
                    "The answers that wait for this connection's windows are as large as they may be. Try again later."
                )
                self._send_error(PayloadTooLarge.code, text)
            elif context.compression and context.compression in self.head.accepts:
                packed = messages.compressed(data, context.compression)
                sender.answer_in_parts(self, packed, request_id, context.compression)
            else:
                sender.answer(self, data, request_id)
        except Exception as error:  # noqa: BLE001 - logged; the call has no other end left
            _log.error("an answer could not be sent", cause=error)
            sender.reset(self, INTERNAL_ERROR)

    def _send_error(self, code: int, text: str) -> None:
        self._connection.sender.fail(self, code, text, ((REQUEST_ID, self.request_id),))
