"""The batcher: requests for one signature of one version, merged row by row into runs of the backend.

    batcher = Batcher(run, signature, identity, options, scheduling, costs, lease, metrics)
    pending = batcher.enqueue(inputs, rows, key, outputs, deadline, done)
    pending.cancel()                       # done gets Cancelled, unless it already had its outcome

What it guarantees:

- The unit is the row. Requests whose variable axes differ are queued apart and never share a run.
- Nothing polls and nothing waits without need: requests that arrive in one turn of the event loop share a run in the
  next, unless `max_queue_delay_us` asks to wait for more. A run expected to be shorter than a hop to a thread happens on
  the loop; a longer one in a thread, while the next batch forms.
- The queue is bounded in rows and refuses at once. (A request larger than the whole queue is let into an empty one.)
- A request larger than `max_batch_rows` is cut and its answer put together again; a smaller one is never cut.
- Requests that expired or were cancelled are dropped before they cost a run.
- A merged run that fails is repeated request by request, so that only the one at fault hears of it.
- Every request is completed exactly once, on every path, by `_Ticket.finish`, and never inside `enqueue`.

Everything but the run itself happens on the loop's thread, so there is no lock.
"""

from collections import deque
from collections.abc import Hashable, Mapping

import numpy as np

from services.engine.costs import CostTable, elements_of
from services.engine.merging import Piece, Result, Run, join, run_pieces
from services.engine.model_config import BatchingOptions
from services.engine.request import Done, InferenceResponse, Outcome
from services.engine.scheduling import Identity, Lease, Pending, Scheduling, Timer
from services.errors import Cancelled, CornetError, DeadlineExceeded, QueueFull, ShuttingDown
from services.telemetry.log import get_logger
from services.telemetry.metrics import BatchMetrics

_MICROSECONDS = 1e6
_SHORTEST_RETRY_S = 0.05

_log = get_logger(__name__)


class _Ticket:
    """One request in the batcher. `taken` of its rows are in a run or done; `finish` is its only way out."""

    __slots__ = (
        "_batcher",
        "_done",
        "deadline",
        "enqueued",
        "group",
        "inputs",
        "missing",
        "outputs",
        "parts",
        "rows",
        "taken",
    )

    def __init__(
        self,
        batcher: "Batcher",
        group: "_Group",
        inputs: Mapping[str, np.ndarray],
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        done: Done,
    ) -> None:
        self._batcher = batcher
        self._done: Done | None = done
        self.group = group
        self.inputs = inputs
        self.rows = rows
        self.outputs = outputs
        self.deadline = deadline
        self.enqueued = 0.0
        self.taken = 0
        self.missing = rows
        self.parts: dict[int, dict[str, np.ndarray]] = {}

    def collect(self, piece: Piece, result: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Take the answer of one piece; the whole answer once every row of the request has one, else None."""
        if piece.stop - piece.start == self.rows:
            return result
        self.missing -= piece.stop - piece.start
        self.parts[piece.start] = result
        return None if self.missing else join(self.parts)

    def finish(self, outcome: Outcome) -> None:
        """Hand over the outcome, once; later ones are dropped. A fault in the callback stays the callback's."""
        done = self._done
        if done is None:
            return
        self._done = None
        if self.taken < self.rows:
            self._batcher.withdraw(self)
        self._batcher.lease.release()
        try:
            done(outcome)
        except Exception as error:  # noqa: BLE001  # reported; the other requests of the batch must have their answers
            _log.error("the callback of a request failed", cause=error)

    def cancel(self) -> None:
        if self._done is not None:
            self._batcher.metrics.cancelled += 1
        self.finish(Cancelled("The caller withdrew the request before it was answered."))


class _Group:
    """Queued requests that may share a run. `rows` are those not yet taken."""

    __slots__ = ("key", "rows", "tickets")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.rows = 0
        self.tickets: deque[_Ticket] = deque()


class _Batch:
    """Pieces that run together. `results` is filled by the run."""

    __slots__ = ("dispatched", "elements", "outputs", "padded_rows", "pieces", "results", "rows", "seconds")

    def __init__(self, pieces: list[Piece], rows: int, padded_rows: int, outputs: tuple[str, ...], now: float) -> None:
        self.pieces = pieces
        self.rows = rows
        self.padded_rows = padded_rows
        self.outputs = outputs
        self.dispatched = now
        first = pieces[0]
        self.elements = elements_of(first.inputs) * max(rows, padded_rows) // first.total
        self.results: list[Result] = []
        self.seconds = 0.0


class Batcher:
    """See the module. `batchable` False makes every request a run of its own, one after the other, through the same queue."""

    def __init__(
        self,
        run: Run,
        identity: Identity,
        options: BatchingOptions,
        scheduling: Scheduling,
        *,
        batchable: bool,
        costs: CostTable,
        lease: Lease,
        metrics: BatchMetrics,
    ) -> None:
        self.queued_rows = 0
        self.lease = lease
        self._run = run
        self._identity = identity
        self._options = options
        self._max_rows = options.max_batch_rows if batchable else 1
        self._batchable = batchable
        self._delay_s = options.max_queue_delay_us / _MICROSECONDS
        self._scheduler = scheduling.scheduler
        self._executor = scheduling.executor
        self._clock = scheduling.clock
        self._inline_s = scheduling.inline_s
        self._costs = costs
        self.metrics = metrics
        metrics.depth = lambda: self.queued_rows
        metrics.waiting = lambda: sum(len(group.tickets) for group in self._groups.values())
        self._groups: dict[Hashable, _Group] = {}
        self._running = 0
        self._turn_due = False
        self._timer: Timer | None = None
        self._closed = False

    def enqueue(
        self,
        inputs: Mapping[str, np.ndarray],
        rows: int,
        key: Hashable,
        outputs: tuple[str, ...],
        deadline: float | None,
        done: Done,
    ) -> Pending:
        """Queue a validated request. `rows` is 1 where the signature does not count rows.

        `key` says which requests may share a run; it stands for the variable axes and for the `outputs` asked for, of which
        there is at least one. Raises QueueFull, ShuttingDown or DeadlineExceeded, and then nothing was queued.
        """
        if self._closed:
            raise ShuttingDown("The model is being unloaded.")
        if self.queued_rows and self.queued_rows + rows > self._options.max_queue_rows:
            self.metrics.rejected += 1
            raise QueueFull(
                f"{self._identity.model}: expected at most {self._options.max_queue_rows} rows in the queue. "
                f"Received: {rows} with {self.queued_rows} already waiting. Try again later.",
                retry_after_s=self._retry_after_s(),
            )
        now = self._clock()
        if deadline is not None and deadline <= now:
            self.metrics.expired += 1
            raise DeadlineExceeded("The deadline had passed when the request arrived.")
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        ticket = _Ticket(self, group, inputs, rows, outputs, deadline, done)
        ticket.enqueued = now
        self.lease.retain()
        group.tickets.append(ticket)
        group.rows += rows
        self.queued_rows += rows
        if not self._turn_due and (self._timer is None or group.rows >= self._max_rows):
            self._schedule_turn()
        return ticket

    def withdraw(self, ticket: _Ticket) -> None:
        """Take a ticket that is finished, but not wholly dispatched, out of the queue."""
        waiting = ticket.rows - ticket.taken
        ticket.taken = ticket.rows
        self.queued_rows -= waiting
        group = ticket.group
        group.rows -= waiting
        group.tickets.remove(ticket)
        if not group.tickets and self._groups.get(group.key) is group:
            del self._groups[group.key]

    def close(self, reason: CornetError) -> None:
        """Refuse new requests and complete the queued ones with `reason`. Runs in progress still deliver theirs."""
        self._closed = True
        self.metrics.depth = self.metrics.waiting = lambda: 0  # the series outlive the model; they must not keep it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for group in list(self._groups.values()):
            for ticket in list(group.tickets):
                self.metrics.shut_down += 1
                ticket.finish(reason)

    def _retry_after_s(self) -> float:
        """Seconds until the queue as it stands should have run."""
        ticket = next(iter(self._groups.values())).tickets[0]
        seconds = self._costs.estimate(elements_of(ticket.inputs) * self._max_rows // ticket.rows)
        batches = -(-self.queued_rows // self._max_rows)
        return max(_SHORTEST_RETRY_S, batches * seconds) if seconds < float("inf") else 1.0

    def _schedule_turn(self) -> None:
        if self._running < self._options.concurrent_batches:
            self._turn_due = True
            self._scheduler.call_soon(self._turn)

    def _turn(self) -> None:
        """Dispatch one batch, if one is due, and see to it that there is another turn while anything waits."""
        self._turn_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._groups or self._running >= self._options.concurrent_batches:
            return
        now = self._clock()
        group = self._due_group(now)
        if group is None:
            return
        batch = self._form(group, now)
        if batch is not None:
            self._dispatch(batch)
        if self._groups and not self._turn_due:
            self._schedule_turn()

    def _due_group(self, now: float) -> _Group | None:
        """The next group whose batch is full or has waited its delay; where none is, a timer is set for the first to be."""
        if not self._delay_s:
            return next(iter(self._groups.values()))
        soonest = float("inf")
        for group in self._groups.values():
            waits_until = group.tickets[0].enqueued + self._delay_s
            if group.rows >= self._max_rows or waits_until <= now:
                return group
            soonest = min(soonest, waits_until)
        self._timer = self._scheduler.call_later(soonest - now, self._turn)
        return None

    def _form(self, group: _Group, now: float) -> _Batch | None:
        """Take rows from the front of a group, dropping what expired; the group then goes behind the others."""
        pieces: list[Piece] = []
        room = self._max_rows
        tickets = group.tickets
        while tickets and room:
            ticket = tickets[0]
            if ticket.deadline is not None and ticket.deadline <= now:
                self.metrics.expired += 1
                ticket.finish(DeadlineExceeded("The deadline passed while the request waited for its batch."))
                continue
            waiting = ticket.rows - ticket.taken
            if waiting > room:
                if ticket.rows <= self._max_rows:
                    break
                waiting = room
            start = ticket.taken
            ticket.taken = start + waiting
            if ticket.taken == ticket.rows:
                tickets.popleft()
            group.rows -= waiting
            self.queued_rows -= waiting
            room -= waiting
            pieces.append(Piece(ticket, ticket.inputs, start, start + waiting, ticket.rows))
        if self._groups.get(group.key) is group:  # a callback above may have emptied it, and started another
            del self._groups[group.key]
            if tickets:
                self._groups[group.key] = group
        if not pieces:
            return None
        rows = self._max_rows - room
        return _Batch(pieces, rows, self._padded(rows), pieces[0].owner.outputs, now)

    def _padded(self, rows: int) -> int:
        if not self._batchable:
            return rows
        return next((allowed for allowed in self._options.allowed_batch_rows if allowed >= rows), rows)

    def _dispatch(self, batch: _Batch) -> None:
        if self._costs.estimate(batch.elements) < self._inline_s:
            self._compute(batch)
            self._deliver(batch)
            return
        self._running += 1
        self.lease.retain()
        try:
            self._executor.submit(self._compute_in_thread, batch)
        except RuntimeError:  # the pool is shut down
            batch.results = [ShuttingDown("The server is shutting down.")] * len(batch.pieces)
            self._land(batch)

    def _compute(self, batch: _Batch) -> None:
        began = self._clock()
        batch.results = run_pieces(self._run, batch.pieces, batch.outputs, batch.padded_rows)
        batch.seconds = self._clock() - began

    def _compute_in_thread(self, batch: _Batch) -> None:
        self._compute(batch)
        self._scheduler.call_soon_threadsafe(self._land, batch)

    def _land(self, batch: _Batch) -> None:
        """A batch is back from its thread: start the next one first, then answer."""
        self._running -= 1
        if self._groups and not self._turn_due:
            self._turn()
        self._deliver(batch)
        self.lease.release()

    def _deliver(self, batch: _Batch) -> None:
        self._costs.observe(batch.elements, batch.seconds)
        metrics = self.metrics
        runs = metrics.runs
        runs.kept += (batch.rows, batch.padded_rows, batch.seconds)
        if len(runs.kept) >= runs.FULL:
            runs.settle()
        for piece, result in zip(batch.pieces, batch.results, strict=True):
            ticket: _Ticket = piece.owner
            if isinstance(result, CornetError):
                ticket.finish(result)
                continue
            outputs = ticket.collect(piece, result)
            if outputs is not None:
                waited_s = batch.dispatched - ticket.enqueued
                metrics.queue_seconds.observe(waited_s)
                ticket.finish(self._response(batch, outputs, waited_s))

    def _response(self, batch: _Batch, outputs: dict[str, np.ndarray], waited_s: float) -> InferenceResponse:
        identity = self._identity
        return InferenceResponse(
            identity.model,
            identity.version,
            identity.signature,
            outputs,
            waited_s * _MICROSECONDS,
            batch.seconds * _MICROSECONDS,
            batch.rows,
        )
