"""HTTP/2 and gRPC on asyncio: the default transport of the gRPC front end.

Bytes come in at `connection`, which cuts them into frames. Header blocks go through `blocks` (`hpack`, `headers`) to
`streams`, which opens a `unary` or a `streaming` call; `flow` sends the answers under the client's windows; `control` has
the other frames, `lifetime` a connection's clocks, `deadlines` those of calls, `limits` every bound. `server` listens.
Sources: RFC 9113, RFC 7541, gRPC's PROTOCOL-HTTP2.md, keepalive.md, compression.md and statuscodes.md.

Why a frame loop of our own. One unary echo of 32 bytes, 64 at once on one connection, bytes in to bytes out, in
microseconds of one core (the second figure: every request with another grpc-timeout, as Go's clients send it):

    h2 4.4 (with hpack, hyperframe)             101      -
    own frame loop, hpack 4.2 for every block    16     22
    zttp 0.0.35 (native, alpha)                 2.7    5.3    transport alone; ended connections after 4,096 requests
    this package, without the call's own 1.4    3.3    9

`hpack` took 12 and 19 microseconds of those for a block, ours takes 1.2 and 3; a head that was seen before is taken as a
whole, method, metadata, timeout and all. zttp leaves every event to Python, so that a complete server on it is no faster,
and it is too young to be relied upon. The tables of HPACK are the `hpack` package's, and the tests hold ours to it.
"""
