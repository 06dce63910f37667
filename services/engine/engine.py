"""The engine's one face: named arrays in, named arrays and the version that computed them out.

    engine = Engine(EngineOptions(repository=Path("exported_models")), None)
    await engine.start()
    response = await engine.infer(InferenceRequest("regressor", {"features": rows}))
    response.version, response.outputs["prediction"]
    engine.drain()
    await engine.stop()

All of it runs on one event loop and is called from its thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.cpus import available_cpus
from services.engine.backend import BackendOptions
from services.engine.device import GpuOptions
from services.engine.lanes import Lane, Receiver
from services.engine.loader import LoadOptions
from services.engine.manager import Manager, RetryOptions, VersionState, VersionStatus
from services.engine.model_config import ModelConfig
from services.engine.request import Done, InferenceRequest, InferenceResponse, Outcome
from services.engine.scheduling import Pending, Scheduling
from services.engine.servable import Handle, Servable
from services.errors import CornetError, InvalidArgument, ShuttingDown
from services.telemetry.log import get_logger
from services.telemetry.metrics import Metrics

__all__ = ["Engine", "EngineOptions", "Handle", "Pending", "VersionState", "VersionStatus"]

_INLINE_US, _INLINE_ALONE_US = 100.0, 2000.0
"""The latter is below the slice that a scheduler would give a thread before the loop had its turn (Linux: some 3 ms)."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How one process serves. Plain values; who reads the environment fills them in."""

    repository: Path = Path("exported_models")
    """Where models are looked for when none are configured."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime execution providers in order; empty for CUDA where the installed runtime has it, else the CPU."""
    allow_cpu_fallback: bool = False
    """Run on the CPU where a named provider is absent, instead of failing to load."""
    intra_op_threads: int = 0
    """Threads per run; 0 for as many as the process may use, or one for a model whose runs are too short to share."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """How models use their GPU, if they have one."""
    cpus: int = 0
    """CPUs that threads are sized to; 0 for those the process may use."""
    poll_interval_s: float = 1.0
    """Seconds between looks at the disk; 0 for one look, at the start. Processes of one machine look at the same moments."""
    load_threads: int = 2
    """Models loaded at a time."""
    load_retries: int = 5
    """How often a failed load is tried again, with growing pauses."""
    compute_threads: int = 0
    """Batches that run at a time, over all models; 0 for one more than there are CPUs."""
    inline_us: float | None = None
    """A batch expected to take less runs on the event loop: a hop to a thread and back would cost more. 0 for never; `None`
    for 100, or 2000 where the process has one CPU: a thread of its own would run when the loop does not, and no sooner."""
    drain_timeout_s: float = 20.0
    """Seconds that requests may still take when the engine stops."""
    verify_hashes: bool = True
    """Compare model files with the hashes in their manifests when loading."""


class Engine:
    """See the module. `configs` None serves every model in the repository, the latest version of each.

    Call order: `start`, any number of requests, `drain` (readiness turns false, requests still run), `stop`.
    """

    def __init__(
        self,
        options: EngineOptions,
        configs: Sequence[ModelConfig] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        """Raises InvalidArgument where two configurations have one name."""
        names = [config.name for config in configs or ()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidArgument(f"Expected each model to be configured once. Received twice: {', '.join(twice)}.")
        self.options = options
        self.clock = clock
        self.metrics = metrics or Metrics()
        cpus = options.cpus or available_cpus()
        self._inline_s = _inline_s(options.inline_us, cpus)
        self._compute = ThreadPoolExecutor(options.compute_threads or cpus + 1, "cornet-compute")
        self._loading = ThreadPoolExecutor(options.load_threads, "cornet-load")
        backend = BackendOptions(
            options.providers, options.intra_op_threads, options.allow_cpu_fallback, options.cpus, options.gpu
        )
        self._manager = Manager(
            configs,
            options.repository,
            load_options=LoadOptions(backend, options.verify_hashes),
            retry=RetryOptions(options.load_retries),
            clock=clock,
            executor=self._loading,
            metrics=self.metrics,
            open_servable=self._open,
        )
        self._find = self._manager.find
        self._draining = False
        self._stopped = False
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the initial models, and begin to watch the repository.

        Returns when each has loaded or failed once; a failure is in `statuses`, and keeps `ready` False.
        """
        await self._manager.poll()
        await self._manager.settle()
        if self.options.poll_interval_s > 0 and not self._stopped:
            self._polling = asyncio.create_task(self._poll_forever())

    def drain(self) -> None:
        """Turn `ready` False; requests still run."""
        self._draining = True

    async def stop(self) -> None:
        """Refuse new requests, wait for those that run (up to `drain_timeout_s`), unload. May be called twice."""
        self._draining = True
        if self._stopped:
            return
        self._stopped = True
        self._manager.validity.holds = False
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
        await self._manager.stop(self.options.drain_timeout_s)
        self._compute.shutdown(wait=False, cancel_futures=True)
        self._loading.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether it started, is not draining, every model that must be there is available, and no GPU is lost."""
        return not self._draining and self._manager.ready

    @property
    def healthy(self) -> bool:
        """False once a GPU that a model runs on is lost, for good: only another process can have it back."""
        return self._manager.healthy

    def submit(self, request: InferenceRequest, done: Done) -> Pending:
        """Queue a request; `done(outcome)` is called exactly once, later, on the loop, never inside `submit`.

        Raises CornetError at once for what is wrong at once, and then `done` is never called: ModelNotFound, ModelNotReady,
        SignatureNotFound, InvalidArgument, QueueFull, DeadlineExceeded, ShuttingDown.
        """
        if self._stopped:
            raise ShuttingDown("The server is shutting down.")
        return self._find(request.model, request.version, request.label).submit(request, done)

    def lane(self, request: InferenceRequest, receiver: Receiver) -> Lane | None:
        """The short way for requests like this one, as long as the lane's `validity` holds; None where there is none.

        The form counts: everything but the deadline and the values of its input. Raises what `submit` would.
        """
        if self._stopped:
            raise ShuttingDown("The server is shutting down.")
        servable = self._find(request.model, request.version, request.label)
        return servable.lane(request, receiver, self._manager.validity)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """`submit` for coroutines: returns the response or raises the error; cancelling the task withdraws the request."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        pending = self.submit(request, settle)
        try:
            outcome = await future
        except asyncio.CancelledError:
            pending.cancel()
            raise
        if isinstance(outcome, CornetError):
            raise outcome
        return outcome

    def acquire(self, model: str, version: int | None = None, label: str | None = None) -> Handle:
        """Hold one version, so that it stays loaded: a context manager. Raises as `submit` does for an unknown one."""
        if self._stopped:
            raise ShuttingDown("The server is shutting down.")
        return Handle(self._find(model, version, label))

    def models(self) -> tuple[str, ...]:
        """Names of the models that are configured, or found in the repository."""
        return self._manager.models()

    def statuses(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """What is known of a model's versions, ascending. Raises ModelNotFound."""
        return self._manager.statuses(model, version)

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether a model has an available version, or whether that one is, on a device that is not lost.

        Raises ModelNotFound for an unknown one.
        """
        return any(self._manager.answers(model, status.version) for status in self._manager.statuses(model, version))

    def available_versions(self, model: str) -> list[int]:
        """The versions of a model that answer, in ascending order. Raises ModelNotFound for an unknown one."""
        statuses = self._manager.statuses(model)
        return sorted(status.version for status in statuses if status.state is VersionState.AVAILABLE)

    def _open(self, servable: Servable) -> None:
        loop = asyncio.get_running_loop()
        servable.open(Scheduling(loop, self._compute, self.clock, self._inline_s), self.metrics)

    async def _poll_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_pause_s(self.options.poll_interval_s, loop.time()))
            try:
                await self._manager.poll()
            except Exception as error:  # noqa: BLE001  # reported; the next look may go well
                _log.error("the repository could not be polled", cause=error)


def _inline_s(inline_us: float | None, cpus: int) -> float:
    """Below how many expected seconds a batch runs on the event loop. See `EngineOptions.inline_us`."""
    if inline_us is None:
        inline_us = _INLINE_US if cpus > 1 else _INLINE_ALONE_US
    return inline_us / 1e6


def _pause_s(interval_s: float, now: float) -> float:
    """Seconds to the next multiple of the interval on the machine's monotonic clock, and not less than a tenth of it.

    So workers that share a port look at the same moments, and change versions at nearly the same time.
    """
    rest_s = interval_s - now % interval_s
    return rest_s if rest_s > interval_s / 10 else rest_s + interval_s
