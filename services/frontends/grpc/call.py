"""What stands between a transport and a handler: calls, and the kinds of methods.

Handlers see bytes and a `Call`, never a transport's own types, so that every transport serves the same table.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from services import errors
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Pending
from services.errors import CornetError, ShuttingDown
from services.frontends.status import Dialect, grpc_code, to_cornet
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics

MAX_TEXT_BYTES = 1024
"""TensorFlow Serving's bound on error texts; a client may send names of any length, and they come back in a header."""

MetadataPairs: TypeAlias = Sequence[tuple[str, str | bytes]]


class Call(Exchange, ABC):
    """One unary call in progress: what a handler may know of it, and the one answer it owes.

    A handler ends in exactly one of `reply`, `fail` and `answer`, at once or later, on the loop's thread. What comes after
    the first, or after the caller has gone, is dropped. `model`, `version` and `decoded` are the handler's word for the
    metrics. `deadline` is a point on the engine's clock (seconds), None where the caller set none.

    `work` is what to cancel if the caller goes away before the answer, `echo` what the answer repeats of the request; both
    are the handler's to set.

    A transport subclasses it with `_send` and `_send_error`, and calls `cancel` when the caller goes away.
    """

    echo = b""
    _finished = False
    work: Pending | None = None

    def __init__(
        self, method: "UnaryMethod", metadata: MetadataPairs, deadline: float | None, metrics: Metrics
    ) -> None:
        # What Exchange's own does, without another call: a tenth of a request's time in Python is making this object.
        self.metrics = metrics
        self.method = method
        self.headers = metadata
        self.deadline = deadline
        metrics.arrived[method.protocol] += 1
        self.started_at = perf_counter()

    @property
    def protocol(self) -> str:  # type: ignore[override] # a call's never changes
        return self.method.protocol

    @property
    def operation(self) -> str:  # type: ignore[override] # as above
        return self.method.name

    def reply(self, data: bytes) -> None:
        """Answer with a serialised message."""
        if self._finish(errors.OK, len(data)):
            self._send(data)

    def fail(self, error: CornetError) -> None:
        """Answer with an error."""
        code = grpc_code(error, self.method.dialect)
        if self._finish(code):
            self.report(error)
            self._send_error(code, bounded(str(error)))

    def answer(self, outcome: Outcome, encode: Callable[[InferenceResponse], bytes]) -> None:
        """Answer with what the engine made of the request. Never raises: the engine's callbacks must not."""
        if self._finished:
            return
        if isinstance(outcome, CornetError):
            self.fail(outcome)
            return
        self.response, self.version, self.inferred_at = outcome, outcome.version, perf_counter()
        try:
            data = encode(outcome)
        except Exception as error:  # noqa: BLE001 - reported to the client and logged
            self.fail(to_cornet(error))
        else:
            self.reply(data)

    @staticmethod
    def reply_run(calls: "Sequence[Call]", answers: Sequence[bytes]) -> None:
        """`reply` to all calls of a run, which were counted together."""
        for call, data in zip(calls, answers, strict=True):
            if not call._finished:  # noqa: SLF001  # one class, as below
                call._finished = True  # noqa: SLF001
                call._send(data)  # noqa: SLF001
        calls[0].run_answered()

    def run_answered(self) -> None:
        """All calls of this one's run have their answers: a transport that keeps them for one write need wait no longer."""

    def cancel(self) -> None:
        """The caller is gone: withdraw the work, and drop what is still answered."""
        if self._finish(errors.CANCELLED) and self.work is not None:
            self.work.cancel()

    @abstractmethod
    def _send(self, data: bytes) -> None:
        """Carry the answer; called at most once, and never after `_send_error`."""

    @abstractmethod
    def _send_error(self, code: int, text: str) -> None:
        """Carry a canonical code and a text of bounded length; called at most once, and never after `_send`."""

    def _finish(self, code: int, sent_bytes: int = 0) -> bool:
        """Whether this is the first end of the call; counts it."""
        if self._finished:
            return False
        self._finished = True
        self.finish(code, sent_bytes)
        return True


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What a stream's handler may know of its caller."""

    metadata: MetadataPairs = ()


UnaryHandler: TypeAlias = Callable[[bytes, Call], None]
StreamHandler: TypeAlias = Callable[[AsyncIterator[bytes], StreamContext], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One message in, one out. `protocol` and `name` are its labels in the metrics, `dialect` decides its status codes."""

    protocol: str
    name: str
    handler: UnaryHandler
    dialect: Dialect = Dialect.TYPED


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Messages in and messages out, any number of each. The handler raises CornetError to end with its code."""

    protocol: str
    name: str
    handler: StreamHandler


Method: TypeAlias = UnaryMethod | StreamMethod
MethodTable: TypeAlias = dict[str, Method]
"""Full method name, as `/inference.GRPCInferenceService/ModelInfer`, to what serves it."""


def serve(method: UnaryMethod, data: bytes, call: Call) -> None:
    """Run a unary handler; whatever it raises becomes the call's answer."""
    call.received_bytes = len(data)
    try:
        method.handler(data, call)
    except Exception as error:  # noqa: BLE001 - reported to the client and logged
        call.fail(to_cornet(error))


async def serve_stream(
    method: StreamMethod,
    requests: AsyncIterator[bytes],
    context: StreamContext,
    metrics: Metrics,
    stopping: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Run a stream's handler, counted from its start to its end; a transport carries what it yields.

    Raises what the caller is to be told: a CornetError, logged where the fault is ours; ShuttingDown where the transport
    cancels it because it is `stopping`. A caller who goes away is counted as CANCELLED.
    """
    exchange = Exchange(metrics, method.protocol, method.name, context.metadata)
    code, sent_bytes = errors.CANCELLED, 0

    async def received() -> AsyncIterator[bytes]:
        async for data in requests:
            exchange.received_bytes += len(data)
            yield data

    try:
        async for data in method.handler(received(), context):
            sent_bytes += len(data)
            yield data
        code = errors.OK
    except asyncio.CancelledError:
        if not stopping():
            raise
        code = errors.UNAVAILABLE
        raise ShuttingDown("The server is shutting down.") from None
    except Exception as error:  # noqa: BLE001 - raised again, as what the caller is told
        refusal = to_cornet(error)
        exchange.report(refusal)
        code = refusal.code
        raise refusal from refusal.__cause__
    finally:
        exchange.finish(code, sent_bytes)


def bounded(text: str) -> str:
    """The text, cut where it is longer than a status message may be."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_TEXT_BYTES:
        return text
    return encoded[:MAX_TEXT_BYTES].decode(errors="ignore") + "...TRUNCATED"
