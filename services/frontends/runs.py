"""The requests of a run that the front ends' short ways answer together, counted together."""

from collections.abc import Callable, Sequence
from time import perf_counter

from services import errors
from services.engine.lanes import LaneTicket, PackedRun
from services.telemetry.metrics import Metrics


def count_run(
    metrics: Metrics,
    clock: Callable[[], float],
    protocol: str,
    name: str,
    run: PackedRun,
    tickets: Sequence[LaneTicket],
    inferred_at: float,
    *,
    received_bytes: int,
    sent_bytes: int,
) -> None:
    """Do for all of them what `Exchange.finish` does for one. Each was decoded when its wait began, and `perf_counter` says
    when it arrived.

    `clock` is the engine's; the bytes are those of all requests, and of all answers.
    """
    key = (protocol, name, run.identity.model, run.identity.version, errors.OK)
    series = metrics.series.get(key) or metrics.admit(*key)
    ended_at = perf_counter()
    dispatched_at = run.dispatched + ended_at - clock()  # the engine's clock may be another one
    times = run.times_of(tickets)
    series.count_run(len(tickets), *times, dispatched_at, inferred_at, ended_at, run.seconds)
    series.received_bytes += received_bytes
    series.sent_bytes += sent_bytes
