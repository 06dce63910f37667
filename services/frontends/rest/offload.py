"""Large bodies are decoded and encoded in a thread, so that health checks and small requests do not wait for them.

One thread: what is done there holds Python's lock most of the time, so that several would only take turns, each with a
document of many times its text in memory.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from services.engine.request import InferenceResponse

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

THREAD_FROM_BYTES = 64 * 1024
"""From here a thread is worth the way there and back: JSON takes 20 to 100 ms per MB."""

_thread = ThreadPoolExecutor(1, "cornet-bulk")


def size_of(outcome: InferenceResponse) -> int:
    """Bytes of all outputs: what an answer is judged by."""
    return sum([array.nbytes for array in outcome.outputs.values()])


async def offload(size: int, work: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
    """`work(*args)`, in the thread where it is to read or write many bytes, else at once. It must not touch the engine."""
    if size < THREAD_FROM_BYTES:
        return work(*args)
    return await asyncio.get_running_loop().run_in_executor(_thread, _run_without_collector, work, args)


def _run_without_collector(work: Callable[[*_Ts], _T], args: tuple[*_Ts]) -> _T:
    """A document has no cycles, yet the collector walks all of it again and again as it grows: five times the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work(*args)
    finally:
        if was_enabled:
            gc.enable()
