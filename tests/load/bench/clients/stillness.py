"""How still the machine holds: a process that only looks at the clock, and how long it is kept from it.

    python stillness.py <seconds>

A core that is taken away by other work, or by a hypervisor that tells nobody, delays every request that is under way by as
much as is seen here. Pauses are those of more than `PAUSE_S`; the clock itself is read in a tenth of a microsecond.
"""

import json
import sys
import time

PAUSE_S = 0.0005


def watch(seconds: float) -> dict[str, float]:
    clock = time.perf_counter
    pauses: list[float] = []
    began = last = clock()
    while last - began < seconds:
        now = clock()
        if now - last > PAUSE_S:
            pauses.append(now - last)
        last = now
    elapsed = last - began
    return {
        "pauses_per_second": round(len(pauses) / elapsed, 1),
        "longest_ms": round(1000 * max(pauses, default=0.0), 3),
        "share": round(sum(pauses) / elapsed, 4),
    }


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(watch(float(sys.argv[1])))}\n")
