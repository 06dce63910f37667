"""The manager: brings the loaded versions of every model in line with what is on disk and what is configured.

    manager = Manager(configs, repository, ...)
    await manager.poll()                   # look at the disk, and start to load and unload what follows from it
    await manager.settle()                 # until nothing is left to do
    servable = manager.find("regressor", version=None, label=None)
    await manager.stop(timeout_s)

Loading and unloading happen in threads; everything else on the loop, so that a look-up and the hold it takes cannot be torn
apart by a swap. A version that fails to load keeps its error, is tried again with growing pauses, and changes nothing
for the version that serves.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from services.engine import loader
from services.engine.lanes import Validity
from services.engine.loader import LoadOptions
from services.engine.model_config import ModelConfig
from services.engine.repository import VersionDirectory, scan_model, scan_repository
from services.engine.servable import Servable
from services.engine.version_policy import Load, Snapshot, VersionState, aspired, check_move, next_action
from services.errors import CornetError, Internal, InvalidArgument, ModelNotFound, ModelNotReady
from services.telemetry.log import get_logger
from services.telemetry.metrics import Metrics

__all__ = ["Manager", "RetryOptions", "VersionState", "VersionStatus"]

Scan: TypeAlias = Mapping[int, VersionDirectory] | None
"""The versions of one model on disk; None where its folder cannot be read."""

_ENDED_KEPT = 16  # ended versions that are still reported, per model
_LAST_GRACE_S = 1.0  # for what was refused to wind up

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What is known of one version. `error` says why it is in END; None where it was unloaded on purpose."""

    version: int
    state: VersionState
    error: CornetError | None = None


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """A failed load is tried again `retries` times, after `first_s` seconds, then twice as long, and so on up to `most_s`."""

    retries: int = 5
    first_s: float = 1.0
    most_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after so many failures (at least one); infinite once all retries are used up."""
        if failures > self.retries:
            return float("inf")
        return float(min(self.most_s, self.first_s * 2.0 ** (failures - 1)))


class _Version:
    """One version and where it is in its life."""

    def __init__(self, directory: VersionDirectory, failures: int = 0) -> None:
        self.directory = directory
        self.state = VersionState.START
        self.error: CornetError | None = None
        self.failures = failures
        self.retry_at = float("inf")
        self.servable: Servable | None = None


class _Model:
    """One model. `available` is what requests may reach; `latest` the highest of it."""

    def __init__(self, config: ModelConfig, *, required: bool) -> None:
        self.config = config
        self.required = required
        self.removed = False
        self.wanted: tuple[int, ...] = ()
        self.versions: dict[int, _Version] = {}
        self.available: dict[int, Servable] = {}
        self.latest: Servable | None = None


class Manager:
    """See the module. `configs` None serves every model found in `repository`, its latest version each."""

    def __init__(
        self,
        configs: Sequence[ModelConfig] | None,
        repository: Path,
        *,
        load_options: LoadOptions,
        retry: RetryOptions,
        clock: Callable[[], float],
        executor: Executor,
        metrics: Metrics,
        open_servable: Callable[[Servable], None],
        load: Callable[[ModelConfig, int, Path, LoadOptions], Servable] = loader.load,
    ) -> None:
        self._discover = configs is None
        self._repository = repository
        self._load_options = load_options
        self._retry = retry
        self._clock = clock
        self._executor = executor
        self._metrics = metrics
        self._open = open_servable
        self._load = load
        self._models = {config.name: _Model(config, required=True) for config in configs or ()}
        self.validity = Validity()
        """Holds until what `find` returns may change."""
        self._polled = False
        self._unreadable = False
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- requests ---

    def find(self, model: str, version: int | None, label: str | None) -> Servable:
        """The servable a request is meant for. Raises ModelNotFound, ModelNotReady or, for a label, InvalidArgument."""
        entry = self._models.get(model)
        if entry is None:
            raise ModelNotFound(model, version)
        if version is None and label:
            version = entry.config.labels.get(label)
            if version is None:
                raise InvalidArgument(f"Unrecognized servable version label: {label}")
        servable = entry.latest if version is None else entry.available.get(version)
        if servable is None:
            raise self._absent(entry, version)
        return servable

    def _absent(self, entry: _Model, version: int | None) -> CornetError:
        name = entry.config.name
        if version is None:
            states = ", ".join(f"{v} {version.state.name}" for v, version in sorted(entry.versions.items()))
            if not states:
                return ModelNotFound(name)
            return ModelNotReady(f"{ModelNotFound(name)}. Expected an available version. Received: {states}.")
        if version not in entry.versions:
            available = ", ".join(map(str, sorted(entry.available))) or "none"
            return ModelNotFound(name, version, known=f"Available versions: {available}.")
        state = entry.versions[version].state.name
        return ModelNotReady(
            f"{ModelNotFound(name, version)}. Expected an available version. Received: it is in {state}."
        )

    # --- status ---

    def models(self) -> tuple[str, ...]:
        return tuple(sorted(self._models))

    def statuses(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """Every known version of a model, or the one asked for, ascending. Raises ModelNotFound."""
        entry = self._models.get(model)
        if entry is None or (version is not None and version not in entry.versions):
            raise ModelNotFound(model, version)
        chosen = sorted(entry.versions) if version is None else [version]
        return [VersionStatus(v, entry.versions[v].state, entry.versions[v].error) for v in chosen]

    @property
    def ready(self) -> bool:
        """Whether every model that must be there (configured, or found at the first look) has an available version, and no
        model's device is lost.
        """
        available = all(entry.latest is not None for entry in self._models.values() if entry.required)
        return self._polled and available and self.healthy

    @property
    def healthy(self) -> bool:
        """Whether no model that serves has lost its device."""
        return all(servable.healthy for entry in self._models.values() for servable in entry.available.values())

    def answers(self, model: str, version: int) -> bool:
        """Whether a version is available and its device is not lost."""
        servable = self._models[model].available.get(version)
        return servable is not None and servable.healthy

    @property
    def servables(self) -> list[Servable]:
        """Every loaded version of every model, those that are being drained included."""
        versions = [version for entry in self._models.values() for version in entry.versions.values()]
        return [version.servable for version in versions if version.servable is not None]

    # --- lifecycle ---

    async def poll(self) -> None:
        """Look at the disk once, and start whatever follows from it."""
        found, scans = await asyncio.get_running_loop().run_in_executor(self._executor, self._scan)
        if self._stopping:
            return
        if found is not None:
            self._adopt(found)
        for name, entry in list(self._models.items()):
            scan = scans.get(name)
            if not self._polled and not scan:
                _log.warning("no version found", model=name, path=entry.config.path, readable=scan is not None)
            if scan is not None and not entry.removed:
                self._aspire(entry, scan)
            self._step(entry)
        if self._discover and found is None:
            if not self._unreadable:
                _log.warning("the repository cannot be read", path=self._repository)
            self._unreadable = True
            return
        self._unreadable = False
        self._polled = True

    async def settle(self) -> None:
        """Wait until nothing loads or unloads."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, timeout_s: float) -> None:
        """Unload everything. Requests that still wait after `timeout_s` seconds are completed with ShuttingDown."""
        self._stopping = True
        for entry in list(self._models.values()):
            entry.removed, entry.wanted = True, ()
            self._step(entry)
        try:
            await asyncio.wait_for(self.settle(), timeout_s)
        except TimeoutError:
            for servable in self.servables:
                servable.refuse()
            _log.warning("requests did not finish in time", timeout_s=timeout_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.settle(), _LAST_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _scan(self) -> tuple[dict[str, Path] | None, dict[str, Scan]]:
        """The models found (None where nobody looks for any, or cannot) and the versions of each. In a thread."""
        found = scan_repository(self._repository) if self._discover else None
        paths = {name: entry.config.path for name, entry in tuple(self._models.items())} | (found or {})
        return found, {name: scan_model(path) for name, path in paths.items()}

    def _adopt(self, found: Mapping[str, Path]) -> None:
        """Take in the models that appeared in the repository, and give up those that vanished from it."""
        for name, path in found.items():
            entry = self._models.get(name)
            if entry is None:
                _log.info("model found", model=name)
                self._models[name] = _Model(ModelConfig(name, path), required=not self._polled)
            else:
                entry.removed = False
        for name, entry in self._models.items():
            if name not in found:
                entry.removed, entry.wanted = True, ()

    def _aspire(self, entry: _Model, scan: Mapping[int, VersionDirectory]) -> None:
        """Settle which versions are wanted, and make those that are not known yet known."""
        entry.wanted = aspired(entry.config.policy, scan)
        for number in entry.wanted:
            version = entry.versions.get(number)
            unloaded = version is not None and version.state is VersionState.END and version.error is None
            repaired = version is not None and version.error is not None and version.directory != scan[number]
            if version is None or unloaded or repaired:
                entry.versions[number] = _Version(scan[number])
                self._metrics.track_version(entry.config.name, number, VersionState.START.name)
        for number in [n for n, v in entry.versions.items() if v.state is VersionState.START and n not in entry.wanted]:
            self._forget(entry, number)
        ended = [n for n, v in sorted(entry.versions.items()) if v.state is VersionState.END and n not in entry.wanted]
        for number in ended[:-_ENDED_KEPT]:
            self._forget(entry, number)

    def _step(self, entry: _Model) -> None:
        """Start every action that is due for a model; each calls here again when it is done."""
        now = self._clock()
        while action := next_action(entry.wanted, _snapshots(entry, now)):
            version = entry.versions[action.version]
            if not isinstance(action, Load):
                self._withdraw(entry, version)
                continue
            if version.state is VersionState.END:
                version = entry.versions[action.version] = _Version(version.directory, version.failures)
            self._move(entry, version, VersionState.LOADING)
            self._start(self._load_version(entry, version))
        over = all(version.state in (VersionState.START, VersionState.END) for version in entry.versions.values())
        if entry.removed and over and self._models.get(entry.config.name) is entry:
            del self._models[entry.config.name]
            for number in list(entry.versions):
                self._forget(entry, number)
            _log.info("model removed", model=entry.config.name)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_version(self, entry: _Model, version: _Version) -> None:
        name, number = entry.config.name, version.directory.version
        began = self._clock()
        try:
            servable = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._load, entry.config, number, version.directory.path, self._load_options
            )
        except Exception as error:  # noqa: BLE001  # reported: it becomes the version's error and a log line
            self._fail(entry, version, error)
        else:
            self._open(servable)
            version.servable = entry.available[number] = servable
            self._available_changed(entry)
            self._move(entry, version, VersionState.AVAILABLE)
            seconds = self._clock() - began
            provider, warm_up_s = servable.providers[0], servable.warm_up_s
            self._metrics.track_load(name, number, seconds, provider, warm_up_seconds=warm_up_s)
            _log.info("version available", model=name, version=number, load_s=seconds, provider=provider)
        self._step(entry)

    def _fail(self, entry: _Model, version: _Version, error: Exception) -> None:
        name, number = entry.config.name, version.directory.version
        expected = isinstance(error, CornetError)
        version.error = error if isinstance(error, CornetError) else Internal("The model failed to load; see the log.")
        version.failures += 1
        pause_s = self._retry.pause_s(version.failures)
        version.retry_at = self._clock() + pause_s
        self._move(entry, version, VersionState.END)
        self._metrics.track_load_failure(name)
        _log.error(
            "version failed to load",
            cause=None if expected else error,
            model=name,
            version=number,
            reason=str(error),
            path=version.directory.path,
            retry_in_s=pause_s,
        )

    def _withdraw(self, entry: _Model, version: _Version) -> None:
        """Take a version out of reach; it is drained and closed in a task."""
        number = version.directory.version
        self._move(entry, version, VersionState.UNLOADING)
        entry.available.pop(number)
        self._available_changed(entry)
        self._start(self._unload_version(entry, version))

    async def _unload_version(self, entry: _Model, version: _Version) -> None:
        servable = version.servable
        if servable is not None:
            loop = asyncio.get_running_loop()
            idle = asyncio.Event()
            servable.when_idle(idle.set)
            await idle.wait()
            servable.refuse()
            version.servable = None
            await loop.run_in_executor(self._executor, servable.close)
        self._move(entry, version, VersionState.END)
        _log.info("version unloaded", model=entry.config.name, version=version.directory.version)
        self._step(entry)

    def _available_changed(self, entry: _Model) -> None:
        entry.latest = entry.available[max(entry.available)] if entry.available else None
        self.validity.holds = False
        self.validity = Validity()

    def _move(self, entry: _Model, version: _Version, state: VersionState) -> None:
        check_move(version.state, state)
        version.state = state
        self._metrics.track_version(entry.config.name, version.directory.version, state.name)

    def _forget(self, entry: _Model, number: int) -> None:
        del entry.versions[number]
        self._metrics.forget_version(entry.config.name, number)


def _snapshots(entry: _Model, now: float) -> list[Snapshot]:
    return [
        Snapshot(number, version.state, version.error is not None, version.retry_at <= now)
        for number, version in entry.versions.items()
    ]
