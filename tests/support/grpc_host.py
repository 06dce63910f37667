"""A gRPC server of either transport on a thread of its own, over methods a test plays, to be looked at from outside.

    with Host("native") as host, Peer(host.address) as peer:
        stream = peer.open("/t.T/Hang")
        call = host.hung.get(timeout=10)                # the server has it
        host.soon(call.reply, b"late")

`problems` holds what nobody caught or the log called an error; `unfinished` counts calls and streams that have begun and
not ended.
"""

import asyncio
import gc
import json
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import uvloop

from services.errors import InvalidArgument
from services.frontends.grpc.call import Call, MethodTable, StreamContext, StreamMethod, UnaryMethod
from services.frontends.grpc.http2.connection import Connection
from services.frontends.grpc.options import GrpcOptions
from services.frontends.grpc.transports import TransportName, make_transport
from services.telemetry.metrics import Metrics

TIMEOUT_S = 10.0
TRANSPORTS: tuple[TransportName, ...] = ("grpcio", "native")


class Methods:
    """What the host serves, under `/t.T/<Name>`."""

    def __init__(self) -> None:
        self.hung: queue.Queue[Call] = queue.Queue()
        self.withdrawn: queue.Queue[Call] = queue.Queue()
        self.streams: queue.Queue[StreamContext] = queue.Queue()
        self.gate = asyncio.Event()
        self.open_streams = 0
        self.produced = 0
        self.consumed = 0

    def table(self) -> MethodTable:
        unary = (self.Echo, self.Fail, self.Crash, self.Hang, self.Remaining, self.Metadata, self.Seen, self.Large)
        streams = (self.Chat, self.Count, self.Total, self.Gated, self.FailAfterOne, self.CrashAfterOne)
        table: MethodTable = {f"/t.T/{method.__name__}": UnaryMethod("t", method.__name__, method) for method in unary}
        for method in streams:
            table[f"/t.T/{method.__name__}"] = StreamMethod("t", method.__name__, self._counted(method))
        return table

    def _counted(self, method: Any) -> Any:
        async def handler(requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:
            self.open_streams += 1
            self.streams.put(context)
            try:
                async for data in method(requests):
                    yield data
            finally:
                self.open_streams -= 1

        return handler

    def Echo(self, data: bytes, call: Call) -> None:
        call.reply(bytes(data))

    def Fail(self, data: bytes, call: Call) -> None:
        raise InvalidArgument(bytes(data).decode(errors="replace"))

    def Crash(self, data: bytes, call: Call) -> None:
        raise RuntimeError("/secret/path")

    def Hang(self, data: bytes, call: Call) -> None:
        """Answers when the test does."""
        call.work = SimpleNamespace(cancel=lambda: self.withdrawn.put(call))
        self.hung.put(call)

    def Remaining(self, data: bytes, call: Call) -> None:
        """The seconds up to the caller's deadline."""
        remaining = None if call.deadline is None else call.deadline - time.monotonic()
        call.reply(json.dumps(remaining).encode())

    def Metadata(self, data: bytes, call: Call) -> None:
        """What the handler sees of the headers; bytes come as lists of numbers."""
        pairs = [(name, list(value) if isinstance(value, bytes) else value) for name, value in call.headers]
        call.reply(json.dumps(pairs).encode())

    def Seen(self, data: bytes, call: Call) -> None:
        """Of one call, the seconds up to the deadline, the metadata as text, and the message."""
        remaining = None if call.deadline is None else call.deadline - time.monotonic()
        pairs = [(name, value.hex() if isinstance(value, bytes) else value) for name, value in call.headers]
        call.reply(json.dumps([remaining, pairs, bytes(data).hex()]).encode())

    def Large(self, data: bytes, call: Call) -> None:
        call.reply(pattern(int(bytes(data))))

    async def Chat(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in requests:
            self.consumed += 1
            yield bytes(data)

    async def Count(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`<count> <size>`: so many messages of so many bytes."""
        try:
            count, size = map(int, bytes(await anext(requests, b"")).split())
        except ValueError:
            raise InvalidArgument("expected '<count> <size>'") from None
        for _ in range(count):
            yield bytes(size)
            self.produced += 1

    async def Total(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        total = 0
        async for data in requests:
            total += len(data)
        yield str(total).encode()

    async def Gated(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Reads nothing before the gate opens."""
        await self.gate.wait()
        async for data in requests:
            self.consumed += 1
            yield str(len(data)).encode()

    async def FailAfterOne(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in requests:
            yield bytes(data)
            raise InvalidArgument("one is enough")

    async def CrashAfterOne(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in requests:
            yield bytes(data)
            raise RuntimeError("/secret/path")


class Host:
    """The thread, its loop and the server. `options` are those of `GrpcOptions`."""

    def __init__(
        self,
        transport: TransportName,
        *,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.transport = transport
        self.methods = Methods()
        self.metrics = Metrics(gpus=False)
        self.ended = 0
        self.metrics.listeners.append(self._count_end)
        self.problems: list[str] = []
        self.address: Any = (host, 0)
        self._server = make_transport(
            transport, self.methods.table(), host, 0, options=GrpcOptions(**options), metrics=self.metrics, clock=clock
        )
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.problems.append(repr(context)))
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"{transport} host")
        self._log = _Errors(self.problems)

    @property
    def hung(self) -> queue.Queue[Call]:
        return self.methods.hung

    @property
    def withdrawn(self) -> queue.Queue[Call]:
        return self.methods.withdrawn

    @property
    def target(self) -> str:
        """As gRPC clients write an address."""
        return f"{self.address[0]}:{self.address[1]}" if isinstance(self.address, tuple) else f"unix:{self.address}"

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._log)
        self._thread.start()
        try:
            port = self.run(self._server.start())
        except BaseException:
            self._end_loop()
            raise
        self.address = (self.address[0], port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._server.stop(0))
        finally:
            self._end_loop()

    def run(self, awaitable: Any, timeout_s: float = 3 * TIMEOUT_S) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(timeout_s)

    def stopping(self, grace_s: float) -> Any:
        """Begin to stop. Returns the future of its end."""
        return asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), self._loop)

    def soon(self, function: Callable[..., object], *args: object) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    def open_gate(self) -> None:
        self.soon(self.methods.gate.set)

    def close_gate(self) -> None:
        self.methods.gate.clear()

    @property
    def unfinished(self) -> int:
        """Calls that have begun and not ended; a handler that runs on after its call was counted is one, too."""
        return max(sum(self.metrics.arrived.values()) - self.ended, self.methods.open_streams)

    def tasks(self) -> int:
        """Tasks on the server's loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        number: int = self.run(count())
        return number

    def connections(self) -> int:
        """TCP connections that the server has not closed yet."""
        port = f":{self.address[1]:04X} "
        held = {"01", "04", "05", "08", "09"}  # established, both FIN_WAITs, CLOSE_WAIT, LAST_ACK
        tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines() if port in line]
        return sum(row[1].endswith(port.strip()) and row[3] in held and row[9] != "0" for row in rows)

    def connection_objects(self) -> int:
        """Connections of the native transport that are still in memory."""
        gc.collect()
        return sum(isinstance(thing, Connection) for thing in gc.get_objects())

    def forget(self) -> None:
        """Let go of the calls that tests were handed or left."""
        for calls in (self.hung, self.withdrawn, self.methods.streams):
            while not calls.empty():
                calls.get_nowait()

    def settle(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the server has come to rest in a state. Raises AssertionError after `TIMEOUT_S`."""
        until = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < until, f"Expected {what} within {TIMEOUT_S} s"
            time.sleep(0.002)

    def _count_end(self, exchange: object) -> None:
        self.ended += 1

    def _end_loop(self) -> None:
        logging.getLogger().removeHandler(self._log)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        with closing(self._loop) as loop:
            loop.run_until_complete(loop.shutdown_asyncgens())


class _Errors(logging.Handler):
    """Notes what any logger calls an error."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(f"{record.name}: {record.getMessage()}")


_BLOCK = b"".join(number.to_bytes(4, "big") for number in range(2**14))


def pattern(size: int) -> bytes:
    """Bytes that tell when some are lost or moved."""
    return (_BLOCK * (size // len(_BLOCK) + 1))[:size]
