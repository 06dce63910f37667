"""The short way of an inference: from a body of a text seen before into the engine's lane, and a whole run's answers back.

A direct call (`rest.direct`) tries it first. It serves bodies that the codecs recognise by the text around their values, and
that the engine has a `Lane` for. Everything else is decoded whole by the route's handler, which defines the answers; so is
every request that somebody listens for (tracing, a sample of the request log).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from services.engine.engine import Engine
from services.engine.lanes import Lane, LaneTicket, PackedRun, Times
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.engine.scheduling import Identity, Pending
from services.errors import CornetError
from services.frontends.rest.http import COMPRESS_FROM_BYTES, Response
from services.frontends.runs import RunCounter
from services.protocols.json_numbers import number_bytes
from services.tensors import DType

_MOST_LANES = 1024

Values: TypeAlias = bytes | list[int | float]
"""A tensor's bytes, or its numbers, flat."""

Arrays: TypeAlias = Mapping[str, np.ndarray]


class ShortCall(Protocol):
    """What the short way sees of a direct call."""

    path: str
    parts: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes
    started_at: float
    decoded_at: float
    received_bytes: int

    def answer(self, outcome: Outcome, encode: Callable[[InferenceResponse], Response]) -> None: ...
    def reply_counted(self, body: bytes, lines: bytes) -> None: ...


class Seen(NamedTuple):
    """A body of a text seen before: what it asks, the shape of its one tensor, and that tensor's values.

    `form` is the same object for the same text.
    """

    form: Any
    shape: tuple[int, ...]
    values: Values


class ShortWay(ABC):
    """One route's. It keeps the lanes of the forms seen, up to a number; then it begins anew."""

    def __init__(self, engine: Engine, protocol: str, name: str) -> None:
        self.engine = engine
        self._metrics = engine.metrics
        self._counter = RunCounter(engine, protocol, name)
        self._lanes: dict[tuple[str, Any, tuple[int, ...]], tuple[Lane, DType]] = {}

    @abstractmethod
    def see(self, call: ShortCall) -> Seen | None:
        """What a body asks, where its text is known; whether the values fit is not looked at."""

    @abstractmethod
    def request(self, call: ShortCall, seen: Seen) -> tuple[InferenceRequest, DType]:
        """The same as a request, with any values, and the type of its tensor. Raises CornetError."""

    @abstractmethod
    def encode_run(
        self, identity: Identity, outputs: Arrays, form: Any, rows: int, firsts: Sequence[int]
    ) -> tuple[list[bytes], bytes] | None:
        """The bodies of a run's answers, and the header lines that say what they are; None where each is its own case."""

    @abstractmethod
    def encode(self, response: InferenceResponse, form: Any) -> Response:
        """One answer, as the route's handler has it."""

    def enter(self, call: ShortCall) -> Pending | None:
        """Have a call computed this way, if it can go it. Raises what is wrong with it now, as a full queue."""
        if self._metrics.listeners and self._metrics.is_heard(call):  # type: ignore[arg-type] # a direct call is an Exchange
            return None
        seen = self.see(call)
        if seen is None:
            return None
        known = self._lanes.get((call.path, seen.form, seen.shape))
        if known is None or not known[0].validity.holds:
            known = self._open(call, seen)
            if known is None:
                return None
        lane, dtype = known
        values = seen.values
        if isinstance(values, list):
            packed = number_bytes(values, dtype)
            if packed is None:
                return None
            values = packed
        return lane.submit(values, call, arrived=call.started_at) if len(values) == lane.nbytes else None

    def _open(self, call: ShortCall, seen: Seen) -> tuple[Lane, DType] | None:
        if len(self._lanes) >= _MOST_LANES:
            self._lanes.clear()
        try:
            request, dtype = self.request(call, seen)
            lane = self.engine.lane(request, self)
        except CornetError:
            return None  # the handler meets the same error, and says it
        if lane is None:
            return None
        lane.memo = seen.form
        self._lanes[call.path, seen.form, seen.shape] = lane, dtype
        return lane, dtype

    # As the lanes' receiver:

    def take(
        self,
        run: PackedRun,
        takers: Sequence[ShortCall],
        tickets: Sequence[LaneTicket],
        firsts: Sequence[int],
        times: Times,
    ) -> None:
        inferred_at = perf_counter()
        lane, identity = tickets[0].lane, run.identity
        encoded = self.encode_run(identity, run.outputs or {}, lane.memo, lane.rows, firsts)
        if encoded is None or len(encoded[0][0]) >= COMPRESS_FROM_BYTES:
            for call, ticket, first in zip(takers, tickets, firsts, strict=True):
                self.settle(call, ticket, run.response(ticket, first))
            return
        bodies, lines = encoded
        self.count(run, takers, times, inferred_at, bodies)
        for call, body in zip(takers, bodies, strict=True):
            call.reply_counted(body, lines)

    def count(
        self,
        run: PackedRun,
        calls: Sequence[ShortCall],
        times: Times,
        inferred_at: float,
        bodies: Sequence[bytes],
    ) -> None:
        received_bytes = sum([call.received_bytes for call in calls])
        self._counter.count(run, len(calls), times, inferred_at, received_bytes, sum(map(len, bodies)))

    def settle(self, taker: ShortCall, ticket: LaneTicket, outcome: Outcome) -> None:
        taker.decoded_at = ticket.enqueued + perf_counter() - self.engine.clock()
        taker.answer(outcome, partial(self.encode, form=ticket.lane.memo))
