"""The requests of a run that the front ends' short ways answer together, counted together."""

from time import perf_counter

from services import errors
from services.engine.engine import Engine
from services.engine.lanes import PackedRun, Times
from services.engine.scheduling import Identity
from services.telemetry.histogram import RequestSeries


class RunCounter:
    """Does for all requests of a run what `Exchange.finish` does for one. `protocol` and `name` label them."""

    def __init__(self, engine: Engine, protocol: str, name: str) -> None:
        self._metrics = engine.metrics
        self._clock = engine.clock
        self._protocol = protocol
        self._name = name

    def count(
        self, run: PackedRun, requests: int, times: Times, inferred_at: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Count answered requests of one lane, each of which was decoded when its wait began. The bytes are those of all.

        They arrived, and the run's outputs were there, on `perf_counter`.
        """
        series = self._series(run.identity)
        ended_at = perf_counter()
        dispatched_at = run.dispatched + ended_at - self._clock()  # the engine's clock may be another one
        series.count_run(requests, *times, dispatched_at, inferred_at, ended_at, run.seconds)
        series.received_bytes += received_bytes
        series.sent_bytes += sent_bytes

    def _series(self, identity: Identity) -> RequestSeries:
        key = (self._protocol, self._name, identity.model, identity.version, errors.OK)
        return self._metrics.series.get(key) or self._metrics.admit(*key)
