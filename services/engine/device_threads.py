"""The threads that run a model on a GPU. ONNX Runtime keeps a CUDA stream, with cuBLAS's and cuDNN's handles and workspace
(tens of megabytes of the GPU's), per model and thread that ever ran it; so a model has few threads, and always the same.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

T = TypeVar("T")


class DeviceThreads:
    """`count` threads, for as many runs at a time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "cornet-device")

    def submit(self, work: Callable[..., T], /, *args: Any) -> Future[T]:
        """Have a thread do it. Raises RuntimeError after `close`."""
        return self._pool.submit(work, *args)

    def on_each(self, work: Callable[[], T]) -> list[T]:
        """Have every thread do it, at the same time. Raises what one of them raised. For a start: nothing else may run."""
        together = Barrier(self._count)

        def meet() -> T:
            together.wait()
            return work()

        futures = [self._pool.submit(meet) for _ in range(self._count)]
        return [future.result() for future in futures]

    def close(self) -> None:
        """Take no more; what runs is finished."""
        self._pool.shutdown(wait=False)
