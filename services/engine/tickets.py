"""What stands in a batcher's queue: tickets, one per request, in groups that may share a run."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from services.engine.merging import Piece, join
from services.engine.request import Done, Outcome
from services.errors import Cancelled
from services.telemetry.log import get_logger

if TYPE_CHECKING:
    from services.engine.batching import Batcher
    from services.engine.lanes import Lane

FOREVER = float("inf")

_log = get_logger(__name__)


class Ticket(ABC):
    """One request in the batcher. `taken` of its rows are in a run or done; `finish` is its only way out.

    `done` is who waits for the outcome, None once it was told. Whoever makes a ticket sets its fields: where requests are
    many, a constructor in Python would take as long as all the rest of making it.
    """

    __slots__ = ("deadline", "done", "enqueued", "group", "rows", "taken")

    done: Any
    group: "Group"
    rows: int
    taken: int
    deadline: float | None
    enqueued: float

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The arrays of the request, by input."""

    @abstractmethod
    def collect(self, piece: Piece, result: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Take the answer of one piece; the whole answer once every row of the request has one, else None."""

    @abstractmethod
    def tell(self, done: Any, outcome: Outcome) -> None:
        """Hand the outcome to who waits for it."""

    def finish(self, outcome: Outcome) -> None:
        """Hand over the outcome, once; later ones are dropped. A fault in the callback stays the callback's."""
        done = self.done
        if done is None:
            return
        self.done = None
        if self.taken < self.rows and not self.group.taken:
            self.group.batcher.withdraw(self)
        try:
            self.tell(done, outcome)
        except Exception as error:  # noqa: BLE001  # reported; the other requests of the batch must have their answers
            _log.error("the callback of a request failed", cause=error)

    def cancel(self) -> None:
        if self.done is not None:
            self.group.batcher.metrics.cancelled += 1
        self.finish(Cancelled("The caller withdrew the request before it was answered."))


class ArraysTicket(Ticket):
    """A request that came as arrays, of any number of rows: its `done` is a callback."""

    __slots__ = ("_inputs", "_missing", "_parts")

    def __init__(self, inputs: Mapping[str, np.ndarray], rows: int, deadline: float | None, done: Done) -> None:
        self._inputs = inputs
        self.rows = self._missing = rows
        self.deadline = deadline
        self.done = done
        self.taken = 0
        self._parts: dict[int, dict[str, np.ndarray]] | None = None

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        return self._inputs

    def collect(self, piece: Piece, result: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        if piece.stop - piece.start == self.rows:
            return result
        if self._parts is None:
            self._parts = {}
        self._missing -= piece.stop - piece.start
        self._parts[piece.start] = result
        return None if self._missing else join(self._parts)

    def tell(self, done: Any, outcome: Outcome) -> None:
        done(outcome)


class Group:
    """Queued requests that may share a run. `rows` are those not yet taken, `outputs` what all of them ask for.

    `earliest` is no later than the first deadline among them. `packed` says that all of them came by a lane, and `lane` is
    the one they have in common, if they do; what other requests take from a group stays gone until it is empty. `taken`
    says that all of it went into one run.
    """

    __slots__ = ("batcher", "earliest", "key", "lane", "outputs", "packed", "rows", "taken", "tickets")

    def __init__(self, batcher: "Batcher", key: Hashable, outputs: tuple[str, ...], lane: "Lane | None") -> None:
        self.batcher = batcher
        self.key = key
        self.outputs = outputs
        self.rows = 0
        self.tickets: deque[Any] = deque()
        self.earliest = FOREVER
        self.lane = lane
        self.packed = lane is not None
        self.taken = False
