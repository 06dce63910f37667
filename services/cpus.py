"""How many CPUs a process may use."""

import os
from pathlib import Path


def available_cpus() -> int:
    """CPUs this process may use: its affinity mask, cut by a container's quota (cgroup v2's cpu.max), at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity mask is all there is to know
    return max(1, count)
