"""The requests of a run that the front ends' short ways answer together, counted together."""

from collections.abc import Sequence
from time import perf_counter

from services import errors
from services.engine.engine import Engine
from services.engine.lanes import LaneTicket, PackedRun


class RunCounter:
    """Does for all requests of a run what `Exchange.finish` does for one. `protocol` and `name` label them."""

    def __init__(self, engine: Engine, protocol: str, name: str) -> None:
        self._metrics = engine.metrics
        self._clock = engine.clock
        self._protocol = protocol
        self._name = name

    def count(
        self,
        run: PackedRun,
        tickets: Sequence[LaneTicket],
        inferred_at: float,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """Count answered requests of one lane, each of which was decoded when its wait began. The bytes are those of all.

        They arrived, and the run's outputs were there, on `perf_counter`.
        """
        identity, metrics = run.identity, self._metrics
        key = (self._protocol, self._name, identity.model, identity.version, errors.OK)
        series = metrics.series.get(key) or metrics.admit(*key)
        ended_at = perf_counter()
        dispatched_at = run.dispatched + ended_at - self._clock()  # the engine's clock may be another one
        arrived, waited_s = run.times_of(tickets)
        series.count_run(len(tickets), arrived, waited_s, dispatched_at, inferred_at, ended_at, run.seconds)
        series.received_bytes += received_bytes
        series.sent_bytes += sent_bytes
