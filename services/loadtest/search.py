"""The highest load a server carries within limits: doubling until it fails, then bisection."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Probe = Callable[[float], Awaitable[bool]]

_MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Found:
    """`best` is the highest load that passed, None where the first failed; `failed` the lowest that failed, None where
    none did: the search then ended at `most`, or at its bound of doublings, and the true limit is higher.
    """

    best: float | None
    failed: float | None


async def find_max(
    probe: Probe, start: float, *, tolerance: float = 0.05, most: float = float("inf"), whole: bool = False
) -> Found:
    """Try `start`, twice that, and so on up to `most`; then halve the gap between what passed and what failed until it is
    at most `tolerance` of the former. `whole` tries whole numbers only.

    A load that passes is taken to mean that all lower ones do. Where `start` fails, the search goes down in halves instead,
    as often as it would have gone up, and gives up below 1 with `whole`.
    """
    best, failed = None, None
    load = start
    for _ in range(_MAX_DOUBLINGS):
        if await probe(load):
            best = load
            if failed is not None or load >= most:
                break
            load = min(load * 2, most)
        else:
            failed = load
            if best is not None:
                break
            load = load // 2 if whole else load / 2
            if load < 1 and whole:
                break
    if best is None or failed is None:
        return Found(best, failed)
    while failed - best > max(tolerance * best, 1.0 if whole else 0.0):
        middle = (best + failed) / 2
        if whole:
            middle = float(int(middle))
        if await probe(middle):
            best = middle
        else:
            failed = middle
    return Found(best, failed)
