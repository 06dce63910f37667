import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.engine.loader import LoadOptions
from services.engine.manager import Manager, RetryOptions, VersionState
from services.engine.model_config import BatchingOptions, ModelConfig
from services.engine.servable import Handle, Servable
from services.engine.version_policy import All, Latest, Specific
from services.errors import DataLoss, InvalidArgument, ModelNotFound, ModelNotReady
from services.telemetry.metrics import Metrics
from services.testing import FakeClock, PuppetBackend


class Stage:
    """A manager over folders a test makes, with loads that a test lets succeed, fail or hang."""

    def __init__(self, root: Path, *, configs: list[ModelConfig] | None = None, retries: int = 5) -> None:
        self.root = root
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.executor = ThreadPoolExecutor(4)
        self.broken: set[int] = set()
        self.gates: dict[int, threading.Event] = {}
        self.loads: list[tuple[str, int]] = []
        self.backends: dict[int, PuppetBackend] = {}
        self.manager = Manager(
            configs,
            root,
            load_options=LoadOptions(),
            retry=RetryOptions(retries),
            clock=self.clock,
            executor=self.executor,
            metrics=self.metrics,
            open_servable=lambda servable: None,
            load=self.load,
        )

    def load(self, config: ModelConfig, version: int, path: Path, options: LoadOptions) -> Servable:
        self.loads.append((config.name, version))
        if version in self.gates:
            assert self.gates[version].wait(5)
        if version in self.broken:
            raise DataLoss("model.onnx is rubbish")
        backend = self.backends[version] = PuppetBackend()
        return Servable(
            config.name,
            version,
            path,
            backend,
            signatures=backend.signatures,
            manifest=None,
            batching=BatchingOptions(),
        )

    def publish(self, version: int, model: str = "m") -> Path:
        path = self.root / model / str(version)
        path.mkdir(parents=True, exist_ok=True)
        (path / "model.onnx").write_bytes(b"")
        return path

    def remove(self, version: int, model: str = "m") -> None:
        (self.root / model / str(version) / "model.onnx").unlink()

    async def look(self) -> None:
        await self.manager.poll()
        await self.manager.settle()

    @property
    def states(self) -> dict[int, str]:
        return {status.version: status.state.name for status in self.manager.statuses("m")}

    def latest(self) -> int:
        return self.manager.find("m", None, None).version


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a scenario on a stage."""

    def run(scenario: Callable[[Stage], Awaitable[None]], **options: Any) -> None:
        stage = Stage(tmp_path, **options)
        try:
            asyncio.run(scenario(stage))  # type: ignore[arg-type]  # every scenario is a coroutine function
        finally:
            for gate in stage.gates.values():
                gate.set()
            stage.executor.shutdown()

    return run


def config(tmp_path: Path, **options: Any) -> list[ModelConfig]:
    return [ModelConfig("m", tmp_path / "m", **options)]


def test_every_model_of_the_repository_is_served_by_its_latest_version(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        stage.publish(2)
        stage.publish(7, "other")
        await stage.look()
        assert stage.manager.models() == ("m", "other")
        assert stage.states == {2: "AVAILABLE"}
        assert stage.manager.ready

    play(scenario)


def test_a_model_that_appears_later_is_picked_up_and_one_that_vanishes_is_dropped(play):
    async def scenario(stage: Stage) -> None:
        await stage.look()
        assert stage.manager.models() == ()
        stage.publish(1)
        await stage.look()
        assert stage.latest() == 1
        stage.remove(1)
        await stage.look()
        assert stage.manager.models() == ()
        assert stage.backends[1].closed
        with pytest.raises(ModelNotFound, match=r"Servable not found for request: Latest\(m\)"):
            stage.latest()
        stage.publish(1)
        await stage.look()
        assert stage.latest() == 1

    play(scenario)


def test_a_repository_that_cannot_be_read_drops_nothing(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        stage.root.rename(stage.root.with_name("unmounted"))
        await stage.look()
        assert stage.latest() == 1

    play(scenario)


def test_a_configured_folder_that_vanishes_unloads_nothing_and_an_empty_one_does(play, tmp_path):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        folder = stage.root / "m"
        folder.rename(stage.root / "gone")
        await stage.look()
        assert stage.states == {1: "AVAILABLE"}
        folder.mkdir()
        await stage.look()
        assert stage.states == {1: "END"}
        assert not stage.manager.ready

    play(scenario, configs=config(tmp_path))


def test_the_old_version_serves_until_the_next_is_available(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        stage.publish(2)
        gate = stage.gates[2] = threading.Event()
        await stage.manager.poll()
        assert stage.states == {1: "AVAILABLE", 2: "LOADING"}
        assert stage.latest() == 1
        gate.set()
        await stage.manager.settle()
        assert stage.states == {1: "END", 2: "AVAILABLE"}
        assert stage.latest() == 2
        assert stage.backends[1].closed

    play(scenario)


def test_a_version_in_use_is_not_closed_before_it_is_released(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        handle = Handle(stage.manager.find("m", None, None))
        stage.publish(2)
        await stage.manager.poll()
        while stage.states.get(2) != "AVAILABLE" or stage.states[1] != "UNLOADING":  # noqa: ASYNC110  # the swap has no event of its own
            await asyncio.sleep(0)
        assert not stage.backends[1].closed
        assert handle.servable.version == 1
        handle.release()
        handle.release()
        await stage.manager.settle()
        assert stage.states[1] == "END"
        assert stage.backends[1].closed

    play(scenario)


def test_a_version_that_fails_to_load_leaves_the_one_that_serves(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        stage.publish(2)
        stage.broken.add(2)
        await stage.look()
        assert stage.states == {1: "AVAILABLE", 2: "END"}
        assert stage.latest() == 1
        assert stage.manager.ready
        (status,) = stage.manager.statuses("m", 2)
        assert isinstance(status.error, DataLoss)
        with pytest.raises(
            ModelNotReady, match=r"Specific\(m, 2\). Expected an available version. Received: it is in END"
        ):
            stage.manager.find("m", 2, None)

    play(scenario)


def test_a_failed_load_is_tried_again_with_growing_pauses_until_it_succeeds(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        stage.broken.add(1)
        await stage.look()
        assert not stage.manager.ready
        tried = []
        for _ in range(8):
            stage.clock.advance(0.5)
            await stage.look()
            tried.append(len(stage.loads))
        assert tried == [1, 2, 2, 2, 2, 3, 3, 3]
        stage.broken.clear()
        stage.clock.advance(60)
        await stage.look()
        assert stage.latest() == 1

    play(scenario)


def test_retries_end_but_a_repaired_version_is_tried_at_once(play):
    async def scenario(stage: Stage) -> None:
        path = stage.publish(1)
        stage.broken.add(1)
        for _ in range(10):
            await stage.look()
            stage.clock.advance(100)
        assert len(stage.loads) == 3
        stage.broken.clear()
        (path / "model.onnx").write_bytes(b"repaired")
        await stage.look()
        assert stage.latest() == 1

    play(scenario, retries=2)


def test_an_unexpected_exception_of_a_load_is_reported_without_its_text(play, monkeypatch):
    async def scenario(stage: Stage) -> None:
        def explode(*_: object) -> Servable:
            raise KeyError("/secret")

        stage.manager._load = explode
        stage.publish(1)
        await stage.look()
        (status,) = stage.manager.statuses("m")
        assert status.state is VersionState.END
        assert "secret" not in str(status.error)

    play(scenario)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Latest(2), {2: "AVAILABLE", 3: "AVAILABLE"}),
        (All(), {1: "AVAILABLE", 2: "AVAILABLE", 3: "AVAILABLE"}),
        (Specific((1, 9)), {1: "AVAILABLE"}),
    ],
)
def test_the_configured_policy_decides(play, tmp_path, policy, expected):
    async def scenario(stage: Stage) -> None:
        for version in (1, 2, 3):
            stage.publish(version)
        await stage.look()
        assert stage.states == expected
        assert stage.latest() == max(expected)

    play(scenario, configs=config(tmp_path, policy=policy))


def test_a_label_names_a_version(play, tmp_path):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        stage.publish(2)
        await stage.look()
        assert stage.manager.find("m", None, "stable").version == 1
        assert stage.manager.find("m", 2, "stable").version == 2
        with pytest.raises(InvalidArgument, match="Unrecognized servable version label: beta"):
            stage.manager.find("m", None, "beta")
        with pytest.raises(ModelNotFound, match=r"Specific\(m, 9\). Available versions: 1, 2"):
            stage.manager.find("m", None, "broken")

    play(scenario, configs=config(tmp_path, policy=All(), labels={"stable": 1, "broken": 9}))


def test_a_configured_model_without_versions_is_known_but_not_ready(play, tmp_path):
    async def scenario(stage: Stage) -> None:
        await stage.look()
        assert stage.manager.models() == ("m",)
        assert stage.manager.statuses("m") == []
        assert not stage.manager.ready
        with pytest.raises(ModelNotFound):
            stage.latest()

    play(scenario, configs=config(tmp_path))


def test_a_broken_model_that_appears_later_does_not_take_readiness_away(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        stage.publish(5, "late")
        stage.broken.add(5)
        await stage.look()
        assert stage.manager.ready

    play(scenario)


def test_an_unloaded_version_that_is_wanted_again_is_loaded_again(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        stage.publish(2)
        await stage.look()
        stage.remove(2)
        await stage.look()
        assert stage.states == {1: "AVAILABLE", 2: "END"}
        stage.publish(2)
        await stage.look()
        assert stage.latest() == 2

    play(scenario)


def test_ended_versions_are_reported_but_not_without_limit(play):
    async def scenario(stage: Stage) -> None:
        for version in range(1, 31):
            stage.publish(version)
            await stage.look()
        assert stage.states[30] == "AVAILABLE"
        assert len(stage.states) < 20

    play(scenario)


def test_what_is_not_known_is_not_found(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        for lookup in (lambda: stage.manager.statuses("x"), lambda: stage.manager.statuses("m", 9)):
            with pytest.raises(ModelNotFound, match="Servable not found"):
                lookup()

    play(scenario)


def test_stopping_unloads_everything_even_what_is_still_held(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        stage.publish(2, "other")
        await stage.look()
        held = Handle(stage.manager.find("m", None, None))
        stopping = asyncio.create_task(stage.manager.stop(timeout_s=0.05))
        await asyncio.sleep(0)
        held.release()
        await stopping
        assert stage.backends[1].closed
        assert stage.backends[2].closed

    play(scenario)


def test_the_states_are_a_metric(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await stage.look()
        text = stage.metrics.render()[0].decode()
        assert 'cornet_model_state{model="m",state="AVAILABLE",version="1"} 1.0' in text

    play(scenario)


def test_a_look_at_the_disk_that_ends_after_the_stop_loads_nothing(play):
    async def scenario(stage: Stage) -> None:
        stage.publish(1)
        await asyncio.gather(stage.manager.poll(), stage.manager.stop(timeout_s=1))
        await stage.manager.settle()
        assert stage.loads == []

    play(scenario)


def test_a_repository_that_is_not_there_yet_is_not_ready_and_said_once(play, caplog):
    async def scenario(stage: Stage) -> None:
        away = stage.root.with_name("away")
        stage.root.rename(away)
        await stage.look()
        await stage.look()
        assert not stage.manager.ready
        assert caplog.text.count("the repository cannot be read") == 1
        away.rename(stage.root)
        await stage.look()
        assert stage.manager.ready

    play(scenario)
