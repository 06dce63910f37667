"""The short way through a batcher, for requests of one form that is known and checked: what differs is their bytes alone.

    lane = engine.lane(request, receiver)                # once per form; None where there is no short way for it
    pending = lane.submit(values, taker, deadline, at)   # per request: the bytes of its one input, and when it arrived
    ...                                                  # receiver.take(run, takers, ...) answers a whole run's requests

A request by a lane makes no array, no response and no closure of its own: the rows of a run are put together from the bytes,
and the receiver writes the answers of all of them out of the run's arrays. Small models owe most of their speed to that.
Queueing, bounds, deadlines, cancelling and shutdown are the batcher's own; a run that fails, or that other requests share,
goes its general way.

Requests that arrived together, as those of one read of a socket, enter the queue together too, with the first of them: the
clock is read once, and they are counted by one addition. What a later one of them waits for its turn is thus time in the
queue, though it is not decoded yet.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from services.engine.batches import Batch
from services.engine.merging import Arrays, Piece, Run, as_error, expect_rows, run_pieces
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Identity, Pending
from services.engine.tickets import Ticket
from services.errors import CornetError
from services.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from services.engine.batching import Batcher

NAN = float("nan")
_MICROSECONDS = 1e6


class Times(NamedTuple):
    """When requests arrived, and the seconds that they then waited for their run; one of each where all arrived together."""

    arrived: list[float]
    waited_s: list[float]


class Validity:
    """Whether the models are still as they were: what was looked up before may be used while `holds` is true."""

    __slots__ = ("holds",)

    def __init__(self) -> None:
        self.holds = True


class Receiver(Protocol):
    """Who answers the requests of a lane. A taker is whatever `submit` was given, and is true."""

    def take(
        self,
        run: "PackedRun",
        takers: Sequence[Any],
        tickets: Sequence["LaneTicket"],
        firsts: Sequence[int],
        times: Times,
    ) -> None:
        """Answer every taker: the rows of its ticket begin at its entry of `firsts` in the run's outputs."""
        ...

    def settle(self, taker: Any, ticket: "LaneTicket", outcome: Outcome) -> None:
        """Answer one taker, which may have been answered before: then nothing happens."""
        ...


class LaneTicket(Ticket):
    """A request in a lane: the bytes of its one input. Its taker is `done`, and it is never cut; `Lane.submit` makes it.

    `arrived` is on the clock of who submitted it.
    """

    __slots__ = ("arrived", "lane", "values")

    arrived: float
    lane: "Lane"
    values: bytes | memoryview

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The input as an array, for a run that is not packed."""
        return {self.lane.name: self.lane.array(self.values)}

    def collect(self, piece: Piece, result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002 - all of it
        return result

    def tell(self, done: Any, outcome: Outcome) -> None:
        self.lane.receiver.settle(done, self, outcome)


class Lane:
    """See the module. Every request has `rows` rows, and `values` of exactly `nbytes` bytes, row-major and little-endian.

    `validity` is to be asked before each `submit`; where it no longer holds, another lane is asked for. `memo` is for the
    receiver to keep what it knows of the answers.
    """

    __slots__ = (
        "_arrived",
        "_batcher",
        "_dtype",
        "_enqueued",
        "_key",
        "_row_bytes",
        "_tail",
        "_wanted",
        "memo",
        "name",
        "nbytes",
        "receiver",
        "row_elements",
        "rows",
        "validity",
    )

    def __init__(
        self,
        batcher: "Batcher",
        key: Hashable,
        wanted: tuple[str, ...],
        inputs: Arrays,
        receiver: Receiver,
        validity: Validity,
    ) -> None:
        """`inputs` is one array of the form's name, type and shape; `key` and `wanted` are as for `Batcher.enqueue`."""
        [(self.name, form)] = inputs.items()
        self._batcher = batcher
        self._key = key
        self._wanted = wanted
        self._dtype = form.dtype
        self._tail = form.shape[1:]
        self.rows: int = form.shape[0]
        self.nbytes = form.size * form.itemsize
        self._row_bytes = self.nbytes // self.rows
        self.row_elements: int = form.size // self.rows
        self.receiver = receiver
        self.validity = validity
        self.memo: Any = None
        self._arrived = self._enqueued = NAN

    def submit(
        self, values: bytes | memoryview, taker: Any, deadline: float | None = None, arrived: float = NAN
    ) -> Pending:
        """Queue a request. Those with one after the other the same `arrived` arrived together; NAN is never the same.

        Raises QueueFull, ShuttingDown or DeadlineExceeded, and then nothing was queued.
        """
        if arrived != self._arrived:
            self._arrived = arrived
            self._enqueued = self._batcher.clock()
        ticket = LaneTicket()
        ticket.lane = self
        ticket.values = values
        ticket.done = taker
        ticket.arrived = arrived
        ticket.enqueued = self._enqueued
        ticket.deadline = deadline
        ticket.rows = self.rows
        ticket.taken = 0
        self._batcher.put(ticket, self._key, self._wanted, self)
        return ticket

    def array(self, values: bytes | memoryview) -> np.ndarray:
        """Rows of values as an array: a view, or a copy where they start in the middle of an element."""
        array = np.ndarray((len(values) // self._row_bytes, *self._tail), self._dtype, values)
        return array if array.flags.aligned else array.copy()

    def merge(self, tickets: Sequence[LaneTicket], padding: int) -> Arrays:
        """The input of a run. `padding` rows more repeat the last one."""
        parts = [ticket.values for ticket in tickets]
        if padding > 0:
            parts.append(bytes(parts[-1][-self._row_bytes :]) * padding)
        return {self.name: self.array(parts[0] if len(parts) == 1 else b"".join(parts))}


class PackedRun(Batch):
    """Whole requests that all came by lanes, in one run. `lane` is the one they have in common, if they do.

    `outputs` are the arrays of the whole run, padding included, where it succeeded.
    """

    __slots__ = ("lane", "outputs", "tickets")

    def __init__(
        self,
        identity: Identity,
        wanted: tuple[str, ...],
        tickets: Sequence[LaneTicket],
        lane: Lane | None,
        rows: int,
        padded_rows: int,
        dispatched: float,
    ) -> None:
        self.tickets = tickets
        self.lane = lane
        self.outputs: Arrays | None = None
        super().__init__(identity, wanted, (), rows, padded_rows, dispatched)

    def count_elements(self) -> int:
        return self.tickets[0].lane.row_elements * max(self.rows, self.padded_rows)

    def compute(self, run: Run) -> None:
        padding = self.padded_rows - self.rows
        try:
            outputs = run(self.tickets[0].lane.merge(self.tickets, padding), self.wanted)
            expect_rows(outputs, max(self.rows, self.padded_rows))
        except Exception as error:  # noqa: BLE001  # reported: one request's values must not cost its neighbours theirs
            if len(self.tickets) == 1:
                self.fail(as_error(error))
            else:
                self._split()
                self.results = [result for piece in self.pieces for result in run_pieces(run, [piece], self.wanted)]
        else:
            self.outputs = outputs

    def fail(self, error: CornetError) -> None:
        self._split()
        super().fail(error)

    def deliver(self, waits: Histogram) -> None:
        if self.outputs is None:
            super().deliver(waits)
            return
        if self.lane is not None:
            self._hand_out(self.lane, self.tickets, range(0, self.rows, self.lane.rows), waits)
        else:
            for lane, (tickets, firsts) in self._by_lane().items():
                self._hand_out(lane, tickets, firsts, waits)

    def response(self, ticket: LaneTicket, first: int) -> InferenceResponse:
        """What the general way would answer the request, whose rows begin at `first`."""
        identity, outputs = self.identity, self.outputs or {}
        return InferenceResponse(
            identity.model,
            identity.version,
            identity.signature,
            {name: array[first : first + ticket.rows] for name, array in outputs.items()},
            (self.dispatched - ticket.enqueued) * _MICROSECONDS,
            self.seconds * _MICROSECONDS,
            self.rows,
        )

    def _split(self) -> None:
        """Go the general way from here."""
        self.pieces = [Piece(ticket, ticket.inputs, 0, ticket.rows, ticket.rows) for ticket in self.tickets]

    def _by_lane(self) -> dict[Lane, tuple[list[LaneTicket], list[int]]]:
        """The tickets of each lane, and the first row of each."""
        found: dict[Lane, tuple[list[LaneTicket], list[int]]] = {}
        first = 0
        for ticket in self.tickets:
            tickets, firsts = found.setdefault(ticket.lane, ([], []))
            tickets.append(ticket)
            firsts.append(first)
            first += ticket.rows
        return found

    def _hand_out(self, lane: Lane, tickets: Sequence[LaneTicket], firsts: Sequence[int], waits: Histogram) -> None:
        """Have the requests of one lane answered that somebody still waits for; by its failure, where the receiver fails.

        `waits` observes how long each of them waited for the run.
        """
        times = times_of(tickets, self.dispatched)
        if len(times.waited_s) == 1:
            waits.observe(times.waited_s[0], len(tickets))
        else:
            waits.extend(times.waited_s)
        takers = [ticket.done for ticket in tickets]
        if not all(takers):  # some were cancelled while the run was in a thread
            waiting = [
                (ticket, first) for ticket, first in zip(tickets, firsts, strict=True) if ticket.done is not None
            ]
            tickets, firsts = [ticket for ticket, _ in waiting], [first for _, first in waiting]
            takers = [ticket.done for ticket in tickets]
            if not takers:
                return
            times = times_of(tickets, self.dispatched)
        for ticket in tickets:
            ticket.done = None
        try:
            lane.receiver.take(self, takers, tickets, firsts, times)
        except Exception as error:  # noqa: BLE001  # reported, to whoever has no answer yet
            failure = as_error(error)
            for taker, ticket in zip(takers, tickets, strict=True):
                lane.receiver.settle(taker, ticket, failure)


def times_of(tickets: Sequence[LaneTicket], dispatched: float) -> Times:
    """Of the requests of one lane, at least one, in a run that was dispatched then."""
    first = tickets[0]
    if first.arrived == tickets[-1].arrived:  # and so did those between: together they were queued
        return Times([first.arrived], [dispatched - first.enqueued])
    return Times([ticket.arrived for ticket in tickets], [dispatched - ticket.enqueued for ticket in tickets])
