"""The short way of an inference: from a message of a form seen before into the engine's lane, and a whole run's answers back.

The handlers of both dialects try it first. It serves what `Forms` recognises and the engine has a `Lane` for. Everything
else takes the general way, which defines the answers; so does every request that somebody listens for (tracing, a sample of
the request log).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from services.engine.engine import Engine
from services.engine.lanes import Lane, LaneTicket, PackedRun
from services.engine.merging import Arrays
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.engine.scheduling import Identity
from services.errors import CornetError
from services.frontends.grpc.call import Call
from services.frontends.runs import count_run
from services.protocols.forms import Form, Forms, Locate
from services.protocols.wire import around_rows

_LARGE_BYTES = 16 * 1024
"""Values from this size on are not copied out of their message."""

General: TypeAlias = Callable[[bytes, Call], InferenceRequest]
"""Reads a message and hands it to the engine."""

Texts: TypeAlias = Sequence[bytes] | None
"""What stands around the values in answers that differ in those alone; None where others do not."""


class ShortWay(ABC):
    """One method's handler: `handle`. `general` is what it falls back on, and `locate` finds the values of a message."""

    def __init__(self, engine: Engine, locate: Locate, general: General) -> None:
        self.forms = Forms(locate)
        self._match = self.forms.match
        self._engine = engine
        self._metrics = engine.metrics
        self._listeners = engine.metrics.listeners
        self.general = general

    def handle(self, data: bytes, call: Call) -> None:
        """Serve a call. Raises what is wrong at once, as `Engine.submit` does."""
        form = self._match(data)
        if form is None:
            self.miss(data, call)
        elif not self.enter(form, data, form.start, call):
            self.general(data, call)

    def miss(self, data: bytes, call: Call) -> None:
        """Serve a call whose form is not known: the next one's will be."""
        self.forms.learn(data, self.general(data, call))

    def enter(self, form: Form, data: bytes, start: int, call: Call) -> bool:
        """Whether a request of a known form, whose values begin at `start`, can go this way; then it is on its way."""
        lane: Lane | None = form.lane
        if lane is None or not lane.validity.holds:
            lane = form.lane = self._lane(form)
        if lane is None or (self._listeners and self._metrics.is_heard(call)):
            return False
        call.model = form.request.model
        stop = start + lane.nbytes
        values = data[start:stop] if lane.nbytes < _LARGE_BYTES else memoryview(data)[start:stop]
        call.on_cancel(lane.submit(values, call, call.deadline).cancel)
        return True

    def _lane(self, form: Form) -> Lane | None:
        try:
            return self._engine.lane(form.request, self)
        except CornetError:
            return None  # the general way meets the same error, and says it

    @abstractmethod
    def texts(self, identity: Identity, outputs: Arrays, rows: int) -> Texts:
        """Around the values of such outputs, of so many rows."""

    @abstractmethod
    def encode(self, response: InferenceResponse, call: Call) -> bytes:
        """The general way's answer."""

    def encode_rows(
        self,
        run: PackedRun,
        texts: Sequence[bytes],
        rows: int,
        firsts: Sequence[int],
        calls: Sequence[Call],  # noqa: ARG002 - for dialects whose answers repeat something of their requests
    ) -> list[bytes]:
        """The answers to calls, by their first rows."""
        return around_rows(texts, list((run.outputs or {}).values()), rows, firsts)

    # As the lanes' receiver:

    def take(
        self, run: PackedRun, takers: Sequence[Call], tickets: Sequence[LaneTicket], firsts: Sequence[int]
    ) -> None:
        inferred_at = perf_counter()
        lane, outputs = tickets[0].lane, run.outputs or {}
        kind: Any = [(array.dtype, array.shape[1:]) for array in outputs.values()]
        if lane.memo is None or lane.memo[0] != kind:
            lane.memo = kind, self.texts(run.identity, outputs, lane.rows)
        texts: Texts = lane.memo[1]
        if texts is None:
            for call, ticket, first in zip(takers, tickets, firsts, strict=True):
                self.settle(call, ticket, run.response(ticket, first))
            return
        answers = self.encode_rows(run, texts, lane.rows, firsts, takers)
        clock, method, waited_s = self._engine.clock, takers[0].method, run.waits_of(tickets)
        count_run(self._metrics, clock, method.protocol, method.name, run, takers, waited_s, answers, inferred_at)
        for call, answer in zip(takers, answers, strict=True):
            call.reply_counted(answer)

    def settle(self, taker: Call, ticket: LaneTicket, outcome: Outcome) -> None:
        taker.decoded_at = ticket.enqueued + perf_counter() - self._engine.clock()
        taker.answer(outcome, lambda response: self.encode(response, taker))
