"""How busy the client itself was, and whether it, not the server, set the limit."""

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

from services.loadtest.histogram import Histogram

_BUSY_LOOP = 0.9
_BUSY_MACHINE = 0.95
_LATE_MS = 20.0
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """The client over one step. `cpu_cores` is what the process used, in cores; `loop_share` how busy the one thread was
    that sends and receives, 1 being all the time; `machine_share` how busy all CPUs of this machine were, None where that
    cannot be read. `limited` is why the client was the limit, '' where it was not; `note` what else a reader must know.
    """

    cpu_cores: float
    loop_share: float
    machine_share: float | None
    limited: str
    note: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class ClientWatch:
    """Call it on the loop's thread before the load; `stop` there after it."""

    def __init__(self) -> None:
        self._machine = _machine_times()
        self._wall, self._process, self._thread = perf_counter(), process_time(), thread_time()

    def stop(self, lateness: Histogram) -> ClientLoad:
        wall = max(perf_counter() - self._wall, 1e-9)
        loop = (thread_time() - self._thread) / wall
        cores = (process_time() - self._process) / wall
        machine = _busy_share(self._machine, _machine_times())
        return judge(cores, loop, machine, lateness.percentile_s(99))


def judge(cpu_cores: float, loop_share: float, machine_share: float | None, late_s: float | None) -> ClientLoad:
    """The verdict on those figures; `late_s` is the 99th percentile of an open loop's lateness."""
    limited, note = "", ""
    if loop_share >= _BUSY_LOOP:
        limited = f"the client's one thread was busy {loop_share:.0%} of the time: it cannot offer more load"
    elif late_s is not None and late_s * 1e3 > _LATE_MS:
        limited = f"1 % of the requests left {late_s * 1e3:.0f} ms or more after they were due: latencies include that"
    if machine_share is not None and machine_share >= _BUSY_MACHINE:
        note = (
            f"all {os.cpu_count()} CPUs of this machine were busy, and the client used {cpu_cores:.2f} of them: where the "
            f"server runs here too, it had the rest"
        )
    rounded = None if machine_share is None else round(machine_share, 4)
    return ClientLoad(round(cpu_cores, 4), round(loop_share, 4), rounded, limited, note)


def _machine_times() -> tuple[int, int] | None:
    """Idle and total time of all CPUs since the start, in clock ticks; None where the system has no /proc."""
    try:
        fields = [int(value) for value in _STAT.read_text().partition("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return fields[3] + fields[4], sum(fields)


def _busy_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return 1 - (after[0] - before[0]) / (after[1] - before[1])
