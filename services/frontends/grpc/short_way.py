"""The short way of an inference: from a message of a form seen before into the engine's lane, and a whole run's answers back.

The handlers of both dialects try it first. It serves what `Forms` recognises and the engine has a `Lane` for. Everything
else takes the general way, which defines the answers; so does every request that somebody listens for (tracing, a sample of
the request log).
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

from services import errors
from services.engine.engine import Engine
from services.engine.lanes import Lane, LaneTicket, PackedRun
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.errors import CornetError
from services.frontends.grpc.call import Call
from services.protocols.forms import Form, Forms

_LARGE_BYTES = 16 * 1024
"""Values from this size on are not copied out of their message."""

EncodeRows: TypeAlias = Callable[[PackedRun, int, Sequence[int], Sequence[Call]], Sequence[bytes] | None]
"""Serialised answers to calls, of so many rows each and from those first rows on; None where each is encoded by itself."""

EncodeOne: TypeAlias = Callable[[InferenceResponse, Call], bytes]


class ShortWay:
    """One method's. `encode` is the general way's."""

    def __init__(self, engine: Engine, forms: Forms, encode_rows: EncodeRows, encode: EncodeOne) -> None:
        self._engine = engine
        self._metrics = engine.metrics
        self._listeners = engine.metrics.listeners
        self.forms = forms
        self._encode_rows = encode_rows
        self._encode = encode

    def submit(self, data: bytes, call: Call) -> bool:
        """Whether the request can go this way; then it is on its way. Raises as `Engine.submit` does."""
        form = self.forms.match(data)
        return form is not None and self.enter(form, data, form.start, call)

    def enter(self, form: Form, data: bytes, start: int, call: Call) -> bool:
        """`submit` for a message whose form is known; its values begin at `start`."""
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

    def learn(self, data: bytes, request: InferenceRequest) -> None:
        """A message was read as `request`, and the engine took it."""
        self.forms.learn(data, request)

    def _lane(self, form: Form) -> Lane | None:
        try:
            return self._engine.lane(form.request, self)
        except CornetError:
            return None  # the general way meets the same error, and says it

    # As the lanes' receiver:

    def take(
        self, run: PackedRun, takers: Sequence[Call], tickets: Sequence[LaneTicket], firsts: Sequence[int]
    ) -> None:
        inferred_at = perf_counter()
        answers = self._encode_rows(run, tickets[0].rows, firsts, takers)
        if answers is None:
            for call, ticket, first in zip(takers, tickets, firsts, strict=True):
                self.settle(call, ticket, run.response(ticket, first))
            return
        self._count(run, takers, tickets, answers, inferred_at)
        for call, answer in zip(takers, answers, strict=True):
            call.reply_counted(answer)

    def settle(self, taker: Call, ticket: LaneTicket, outcome: Outcome) -> None:
        taker.decoded_at = ticket.enqueued + self._clock_difference()
        taker.answer(outcome, lambda response: self._encode(response, taker))

    def _count(
        self,
        run: PackedRun,
        calls: Sequence[Call],
        tickets: Sequence[LaneTicket],
        answers: Sequence[bytes],
        inferred_at: float,
    ) -> None:
        """What `Exchange.finish` does for one request. A request is decoded when it is queued."""
        identity, method, metrics = run.identity, calls[0].method, self._engine.metrics
        key = (method.protocol, method.name, identity.model, identity.version, errors.OK)
        series = metrics.series.get(key) or metrics.admit(*key)
        difference = self._clock_difference()
        series.count_run(
            [call.started_at for call in calls],
            [ticket.enqueued + difference for ticket in tickets],
            run.dispatched + difference,
            inferred_at,
            perf_counter(),
            run.seconds,
        )
        series.received_bytes += sum([call.received_bytes for call in calls])
        series.sent_bytes += sum(map(len, answers))

    def _clock_difference(self) -> float:
        """What to add to the engine's clock for an exchange's."""
        return perf_counter() - self._engine.clock()
