"""What one connection may cost: every bound of the HTTP/2 transport, in one place."""

from dataclasses import dataclass

from services.errors import InvalidArgument
from services.frontends.grpc.http2.frames import INITIAL_WINDOW

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a connection. `None` for a time means never. Counts of nuisances are per `window_s`.

    What goes over one of them costs its stream where that is enough, and else its connection: GOAWAY, with
    ENHANCE_YOUR_CALM for what only a hostile or broken peer does.
    """

    max_concurrent_streams: int = 1024
    """Streams open at once; further ones are refused with REFUSED_STREAM, which clients may try again."""
    max_header_list_bytes: int = 16 * 1024
    """Size of a decoded header list, counted as RFC 9113 6.5.2 does; a larger one is answered RESOURCE_EXHAUSTED."""
    max_header_block_bytes: int = 64 * 1024
    """Size of a header block before it is decoded, over all its frames."""
    max_continuations: int = 16
    """CONTINUATION frames of one header block."""
    header_table_bytes: int = 4096
    """The HPACK table that clients may fill (SETTINGS_HEADER_TABLE_SIZE)."""
    stream_window_bytes: int = 4 * MIB
    """How much a client may send on a stream before it hears from us (SETTINGS_INITIAL_WINDOW_SIZE)."""
    connection_window_bytes: int = 16 * MIB
    """The same over all streams of a connection."""
    max_receiving_bytes: int = 4096 * MIB
    """Bytes of unfinished requests held at once, over all connections of a server; more is RESOURCE_EXHAUSTED."""
    max_sending_bytes: int = 1024 * MIB
    """Bytes of answers that wait for one connection's windows; one answer may always wait, more is RESOURCE_EXHAUSTED."""
    max_unread_bytes: int = 4 * MIB
    """Bytes a client may leave in our socket's buffer before nothing more is read from it."""

    window_s: float = 10.0
    """The time over which nuisances are counted."""
    max_resets: int = 2000
    """Streams a client may reset before their answer (rapid reset, CVE-2023-44487), or make us reset."""
    max_settings: int = 100
    """SETTINGS frames."""
    max_pings: int = 1000
    """PING frames, whatever is sent meanwhile."""
    max_empty_frames: int = 1000
    """DATA frames without a byte, header blocks without a field, PRIORITY and unknown frames."""
    max_window_updates: int = 10_000
    """WINDOW_UPDATE frames beyond four for each DATA frame sent."""

    min_ping_interval_s: float = 9.0
    """PINGs of a client that come faster than this, with no headers and no data sent between them, are strikes."""
    max_ping_strikes: int = 2
    """Strikes a client has before GOAWAY `too_many_pings`, as in gRPC's keepalive rules."""

    handshake_timeout_s: float = 20.0
    """From the connection to the end of the TLS handshake, and from there to the client's SETTINGS."""
    header_timeout_s: float = 20.0
    """From the first to the last byte of a frame, or frame of a header block."""
    keepalive_s: float | None = 60.0
    """A connection that has been silent this long is asked for a sign of life (PING)."""
    keepalive_timeout_s: float = 20.0
    """How long it has for that sign."""
    stall_timeout_s: float = 60.0
    """How long an answer may wait for a client that opens no window, or takes no byte from its socket."""
    max_idle_s: float | None = None
    """A connection without streams is closed after this."""
    max_age_s: float | None = None
    """A connection is drained at this age, give or take a tenth, so that clients spread over new servers."""
    max_age_grace_s: float | None = None
    """How long its streams then have before they are cancelled."""
    linger_s: float = 1.0
    """How long a connection that was ended for an error is read, so that its GOAWAY arrives."""

    def __post_init__(self) -> None:
        if self.connection_window_bytes < INITIAL_WINDOW:
            raise InvalidArgument(
                f"Expected connection_window_bytes of {INITIAL_WINDOW} at least, which every client may send. "
                f"Received: {self.connection_window_bytes}."
            )
