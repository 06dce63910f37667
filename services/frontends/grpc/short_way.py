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
from services.engine.lanes import Lane, LaneTicket, PackedRun, Times
from services.engine.merging import Arrays
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.engine.scheduling import Identity
from services.errors import CornetError
from services.frontends.grpc.call import Call
from services.frontends.runs import RunCounter
from services.protocols.forms import Form, Forms, Locate
from services.protocols.wire import around_rows

_LARGE_BYTES = 16 * 1024
"""Values from this size on are not copied out of their message."""

General: TypeAlias = Callable[[bytes, Call], InferenceRequest | None]
"""Reads a message and hands it to the engine. None where what it asks depends on more than its bytes."""

Texts: TypeAlias = Sequence[bytes] | None
"""What stands around the values in answers that differ in those alone; None where others do not."""


class _Memo:
    """What is known of a lane's answers: the text around values of that `kind`, and whether some repeat parts of requests."""

    __slots__ = ("echoing", "kind", "message_bytes", "texts")

    def __init__(self, message_bytes: int) -> None:
        self.message_bytes = message_bytes
        self.echoing = False
        self.kind: list[tuple[Any, ...]] | None = None
        self.texts: Texts = None


class ShortWay(ABC):
    """One method's handler: `handle`. `general` is what it falls back on, `locate` finds the values of a message, and
    `counter` counts what goes this way.
    """

    def __init__(self, engine: Engine, locate: Locate, general: General, counter: RunCounter) -> None:
        self.forms = Forms(locate)
        self._match = self.forms.match
        self._engine = engine
        self._metrics = engine.metrics
        self._listeners = engine.metrics.listeners
        self._general = general
        self._counter = counter

    def handle(self, data: bytes, call: Call) -> None:
        """Serve a call. Raises what is wrong at once, as `Engine.submit` does."""
        form = self._match(data)
        if form is None:
            self.miss(data, call)
        elif not self.enter(form, data, form.start, call):
            self.read(data, call)

    def miss(self, data: bytes, call: Call) -> None:
        """Serve a call whose form is not known: the next one's will be."""
        self.learn(data, self.read(data, call))

    def read(self, data: bytes, call: Call) -> InferenceRequest | None:
        """Serve a call the general way."""
        call.begun_at = perf_counter()
        return self._general(data, call)

    def learn(self, message: bytes, request: InferenceRequest | None) -> None:
        """Remember what a message was read as."""
        if request is not None:
            self.forms.learn(message, request)

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
        call.work = lane.submit(values, call, call.deadline, call.started_at)
        return True

    def _lane(self, form: Form) -> Lane | None:
        try:
            lane = self._engine.lane(form.request, self)
        except CornetError:
            return None  # the general way meets the same error, and says it
        if lane is not None:
            lane.memo = _Memo(form.message_bytes)
        return lane

    @abstractmethod
    def texts(self, identity: Identity, outputs: Arrays, rows: int) -> Texts:
        """Around the values of such outputs, of so many rows."""

    @abstractmethod
    def encode(self, response: InferenceResponse, call: Call) -> bytes:
        """The general way's answer."""

    def repeat(self, run: PackedRun, answers: Sequence[bytes], calls: Sequence[Call]) -> list[bytes]:
        """The answers to calls, with what each repeats of its request; asked of lanes that `echoing` was said of."""
        raise NotImplementedError

    # As the lanes' receiver:

    def take(
        self,
        run: PackedRun,
        takers: Sequence[Call],
        tickets: Sequence[LaneTicket],
        firsts: Sequence[int],
        times: Times,
    ) -> None:
        inferred_at = perf_counter()
        lane, outputs = tickets[0].lane, run.outputs or {}
        memo: _Memo = lane.memo
        kind = [(array.dtype, array.shape[1:]) for array in outputs.values()]
        if memo.kind != kind:
            memo.kind, memo.texts = kind, self.texts(run.identity, outputs, lane.rows)
        if memo.texts is None:
            for call, ticket, first in zip(takers, tickets, firsts, strict=True):
                self.settle(call, ticket, run.response(ticket, first))
            takers[0].run_answered()
            return
        answers = around_rows(memo.texts, list(outputs.values()), lane.rows, firsts)
        received_bytes, sent_bytes = len(takers) * memo.message_bytes, len(takers) * len(answers[0])
        if memo.echoing:
            answers = self.repeat(run, answers, takers)
            received_bytes, sent_bytes = sum(call.received_bytes for call in takers), sum(map(len, answers))
        self._counter.count(run, len(takers), times, inferred_at, received_bytes, sent_bytes)
        Call.reply_run(takers, answers)

    def settle(self, taker: Call, ticket: LaneTicket, outcome: Outcome) -> None:
        taker.decoded_at = ticket.enqueued + perf_counter() - self._engine.clock()
        taker.answer(outcome, lambda response: self.encode(response, taker))
