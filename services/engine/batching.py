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
- Every request is completed exactly once, on every path, by `Ticket.finish` or with all of its run by `PackedRun.deliver`,
  and never inside `enqueue`.
- The model is held while any request waits or runs.

Requests come in by `enqueue`, or as mere bytes by a lane (`lanes`). Everything but the run itself happens on the loop's
thread, so there is no lock.
"""

from collections import deque
from collections.abc import Hashable, Mapping

import numpy as np

from services.engine.batches import Batch
from services.engine.costs import CostTable, elements_of
from services.engine.lanes import Lane, PackedRun
from services.engine.merging import Piece, Run
from services.engine.model_config import BatchingOptions
from services.engine.request import Done
from services.engine.scheduling import Identity, Lease, Pending, Scheduling, Timer
from services.engine.tickets import FOREVER, ArraysTicket, Group, Ticket
from services.errors import CornetError, DeadlineExceeded, QueueFull, ShuttingDown
from services.telemetry.metrics import BatchMetrics

_MICROSECONDS = 1e6
_SHORTEST_RETRY_S = 0.05


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
        self._lease = lease
        self._run = run
        self._identity = identity
        self._options = options
        self._max_queue_rows = options.max_queue_rows
        self._max_rows = options.max_batch_rows if batchable else 1
        self.batchable = batchable
        self._delay_s = options.max_queue_delay_us / _MICROSECONDS
        self._scheduler = scheduling.scheduler
        self._executor = scheduling.executor
        self.clock = scheduling.clock
        self._inline_s = scheduling.inline_s
        self._costs = costs
        self.metrics = metrics
        metrics.depth = lambda: self.queued_rows
        metrics.waiting = lambda: sum(len(group.tickets) for group in self._groups.values())
        self._groups: dict[Hashable, Group] = {}
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
        ticket = ArraysTicket(inputs, rows, deadline, done)
        ticket.enqueued = self.clock()
        self.put(ticket, key, outputs)
        return ticket

    def put(self, ticket: Ticket, key: Hashable, outputs: tuple[str, ...], lane: Lane | None = None) -> None:
        """Queue a ticket, `enqueued` just before; see `enqueue`. `lane` is the one it comes by."""
        rows = ticket.rows
        queued_rows = self.queued_rows + rows
        if queued_rows > self._max_queue_rows or self._closed:
            self._refuse(rows)
        deadline = ticket.deadline
        if deadline is not None and deadline <= ticket.enqueued:
            self.metrics.expired += 1
            raise DeadlineExceeded("The deadline had passed when the request arrived.")
        group = self._groups.get(key)
        if group is None:
            if not self._groups:
                self._lease.retain()
            group = self._groups[key] = Group(self, key, outputs, lane)
        elif lane is None:
            group.packed = False
        elif group.lane is not lane:
            group.lane = None
        if deadline is not None and deadline < group.earliest:
            group.earliest = deadline
        ticket.group = group
        group.tickets.append(ticket)
        group.rows += rows
        self.queued_rows = queued_rows
        if not self._turn_due and (self._timer is None or group.rows >= self._max_rows):
            self._schedule_turn()

    def withdraw(self, ticket: Ticket) -> None:
        """Take a ticket that is finished, but not wholly dispatched, out of the queue."""
        waiting = ticket.rows - ticket.taken
        ticket.taken = ticket.rows
        self.queued_rows -= waiting
        group = ticket.group
        group.rows -= waiting
        group.tickets.remove(ticket)
        if not group.tickets and self._groups.get(group.key) is group:
            self._drop(group)

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

    def _refuse(self, rows: int) -> None:
        """Raise for a closed or a full queue; an empty one takes a request of any size."""
        if self._closed:
            raise ShuttingDown("The model is being unloaded.")
        if self.queued_rows:
            self.metrics.rejected += 1
            raise QueueFull(
                f"{self._identity.model}: expected at most {self._max_queue_rows} rows in the queue. "
                f"Received: {rows} with {self.queued_rows} already waiting. Try again later.",
                retry_after_s=self._retry_after_s(),
            )

    def _retry_after_s(self) -> float:
        """Seconds until the queue as it stands should have run."""
        ticket = next(iter(self._groups.values())).tickets[0]
        seconds = self._costs.estimate(elements_of(ticket.inputs) * self._max_rows // ticket.rows)
        batches = -(-self.queued_rows // self._max_rows)
        return max(_SHORTEST_RETRY_S, batches * seconds) if seconds < float("inf") else 1.0

    def _drop(self, group: Group) -> None:
        del self._groups[group.key]
        if not self._groups:
            self._lease.release()

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
        now = self.clock()
        group = self._due_group(now)
        if group is None:
            return
        self._lease.retain()  # what is formed waits no longer, and does not run yet
        batch = self._form(group, now)
        if batch is not None:
            self._dispatch(batch)
        self._lease.release()
        if self._groups and not self._turn_due:
            self._schedule_turn()

    def _due_group(self, now: float) -> Group | None:
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

    def _form(self, group: Group, now: float) -> Batch | None:
        """Take rows from the front of a group, without those that expired; the group then goes behind the others."""
        if group.earliest <= now:
            self._expire(group, now)
            if self._groups.get(group.key) is not group:
                return None
        if group.packed:
            return self._form_packed(group, now)
        pieces: list[Piece] = []
        room = self._max_rows
        tickets = group.tickets
        while tickets and room:
            ticket = tickets[0]
            waiting = ticket.rows - ticket.taken
            if waiting > room:
                if ticket.rows <= self._max_rows:
                    break
                waiting = room
            start = ticket.taken
            ticket.taken = start + waiting
            if ticket.taken == ticket.rows:
                tickets.popleft()
            room -= waiting
            pieces.append(Piece(ticket, ticket.inputs, start, start + waiting, ticket.rows))
        rows = self._max_rows - room
        self._take(group, rows)
        return Batch(self._identity, group.outputs, pieces, rows, self._padded(rows), now)

    def _form_packed(self, group: Group, now: float) -> Batch:
        """`_form` where every request came by a lane: none is larger than a batch, and mostly the whole group is taken."""
        tickets, rows = group.tickets, group.rows
        if rows <= self._max_rows:
            group.taken, group.tickets = True, deque()  # the tickets know their group: they would keep each other alive
            self.queued_rows -= rows
            self._drop(group)
        else:
            tickets, room = deque(), self._max_rows
            while group.tickets[0].rows <= room:
                ticket = group.tickets.popleft()
                ticket.taken = ticket.rows
                room -= ticket.rows
                tickets.append(ticket)
            rows = self._max_rows - room
            self._take(group, rows)
        return PackedRun(self._identity, group.outputs, tickets, group.lane, rows, self._padded(rows), now)

    def _take(self, group: Group, rows: int) -> None:
        """So many rows have left the front of a group: it goes behind the others, or out."""
        group.rows -= rows
        self.queued_rows -= rows
        if group.tickets:
            self._groups[group.key] = self._groups.pop(group.key)
        else:
            self._drop(group)

    def _expire(self, group: Group, now: float) -> None:
        """Finish the requests whose deadline has passed. Their callbacks may do what they like to the group."""
        for ticket in [ticket for ticket in group.tickets if ticket.deadline is not None and ticket.deadline <= now]:
            if ticket.done is not None:
                self.metrics.expired += 1
                ticket.finish(DeadlineExceeded("The deadline passed while the request waited for its batch."))
        deadlines = (ticket.deadline for ticket in group.tickets if ticket.deadline is not None)
        group.earliest = min(deadlines, default=FOREVER)

    def _padded(self, rows: int) -> int:
        if not self.batchable:
            return rows
        return next((allowed for allowed in self._options.allowed_batch_rows if allowed >= rows), rows)

    def _dispatch(self, batch: Batch) -> None:
        if self._costs.estimate(batch.elements) < self._inline_s:
            self._compute(batch)
            self._deliver(batch)
            return
        self._running += 1
        self._lease.retain()
        try:
            self._executor.submit(self._compute_in_thread, batch)
        except RuntimeError:  # the pool is shut down
            batch.fail(ShuttingDown("The server is shutting down."))
            self._land(batch)

    def _compute(self, batch: Batch) -> None:
        began = self.clock()
        batch.compute(self._run)
        batch.seconds = self.clock() - began

    def _compute_in_thread(self, batch: Batch) -> None:
        self._compute(batch)
        self._scheduler.call_soon_threadsafe(self._land, batch)

    def _land(self, batch: Batch) -> None:
        """A batch is back from its thread: start the next one first, then answer."""
        self._running -= 1
        if self._groups and not self._turn_due:
            self._turn()
        self._deliver(batch)
        self._lease.release()

    def _deliver(self, batch: Batch) -> None:
        self._costs.observe(batch.elements, batch.seconds)
        metrics = self.metrics
        runs = metrics.runs
        runs.kept += (batch.rows, batch.padded_rows, batch.seconds)
        if len(runs.kept) >= runs.FULL:
            runs.settle()
        batch.deliver(metrics.queue_seconds)
