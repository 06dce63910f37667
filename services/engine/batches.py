"""What a batcher runs at a time, from the rows it took to the answers it hands out."""

from collections.abc import Sequence

from services.engine.costs import elements_of
from services.engine.merging import Piece, Result, Run, run_pieces
from services.engine.request import InferenceResponse
from services.engine.scheduling import Identity
from services.engine.tickets import Ticket
from services.errors import CornetError
from services.telemetry.histogram import Histogram

_MICROSECONDS = 1e6


class Batch:
    """Pieces of requests that run together. `compute` may be called in a thread, `deliver` on the loop.

    `rows` are those of the pieces, `elements` those of the inputs with the padding up to `padded_rows`; `dispatched` is a
    point on the batcher's clock, and `seconds` what the run took, to be set by who timed it.
    """

    __slots__ = ("dispatched", "elements", "identity", "padded_rows", "pieces", "results", "rows", "seconds", "wanted")

    def __init__(
        self,
        identity: Identity,
        wanted: tuple[str, ...],
        pieces: Sequence[Piece],
        rows: int,
        padded_rows: int,
        dispatched: float,
    ) -> None:
        self.identity = identity
        self.wanted = wanted
        self.pieces = pieces
        self.rows = rows
        self.padded_rows = padded_rows
        self.dispatched = dispatched
        self.seconds = 0.0
        self.results: Sequence[Result] = ()
        self.elements = self.count_elements()

    def count_elements(self) -> int:
        first = self.pieces[0]
        return elements_of(first.inputs) * max(self.rows, self.padded_rows) // first.total

    def compute(self, run: Run) -> None:
        """Run it. Never raises."""
        self.results = run_pieces(run, self.pieces, self.wanted, self.padded_rows)

    def fail(self, error: CornetError) -> None:
        """Have `error` for every answer, in place of a run."""
        self.results = [error] * len(self.pieces)

    def deliver(self, waits: Histogram) -> None:
        """Finish the requests whose answers are complete. `waits` observes the seconds that each of those had waited."""
        for piece, result in zip(self.pieces, self.results, strict=True):
            ticket: Ticket = piece.owner
            if isinstance(result, CornetError):
                ticket.finish(result)
                continue
            outputs = ticket.collect(piece, result)
            if outputs is not None:
                waited_s = self.dispatched - ticket.enqueued
                waits.observe(waited_s)
                identity = self.identity
                ticket.finish(
                    InferenceResponse(
                        identity.model,
                        identity.version,
                        identity.signature,
                        outputs,
                        waited_s * _MICROSECONDS,
                        self.seconds * _MICROSECONDS,
                        self.rows,
                    )
                )
