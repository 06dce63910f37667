"""What a batcher needs of the world around it: a loop, a pool, a clock, and somebody who counts holders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Timer(Protocol):
    def cancel(self) -> object: ...


class Scheduler(Protocol):
    """The part of an asyncio event loop that the batcher uses; a test plays it by hand."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer: ...
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Timer: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer: ...


class Executor(Protocol):
    """The part of a thread pool that the batcher uses."""

    def submit(self, work: Callable[..., object], /, *args: Any) -> object: ...


class Lease(Protocol):
    """Counts who still needs the model; it is not unloaded before all have released it."""

    def retain(self) -> None: ...
    def release(self) -> None: ...


class Pending(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """Withdraw it: its callback gets Cancelled at once, unless it already had its outcome. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Where batches run. `clock` gives seconds, monotonic; runs expected under `inline_s` seconds happen on the loop."""

    scheduler: Scheduler
    executor: Executor
    clock: Callable[[], float]
    inline_s: float


@dataclass(frozen=True, slots=True)
class Identity:
    """What the answers say of who computed them."""

    model: str
    version: int
    signature: str
