"""What goes wrong on disk or under load must not reach a client who asked for something else."""

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest

from services import testing
from services.engine.engine import Engine, EngineOptions, VersionState
from services.engine.request import InferenceRequest
from services.errors import CornetError, DataLoss, ManifestError, ModelNotReady

CLIENTS = 16


def ask(rows: int = 1) -> InferenceRequest:
    return InferenceRequest("m", {"x": np.zeros((rows, 1), np.float32)})


def publish(repository: Path, version: int) -> None:
    """A version whose answer is its own number, renamed into place as the exporter does."""
    staging = repository / "m" / f".tmp-{version}-1"
    testing.write_offset(staging, float(version))
    staging.rename(repository / "m" / str(version))


def corrupt_model(path: Path) -> None:
    testing.write_mlp(path)
    content = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(content[: len(content) // 2])


def corrupt_manifest(path: Path) -> None:
    testing.write_offset(path, 2)
    (path / "manifest.json").write_text('{"schema_version": 1, "name"')


def contradicting_manifest(path: Path) -> None:
    testing.write_offset(path, 2)
    (path / "manifest.json").write_text('{"schema_version": 99}')


def empty_model(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "model.onnx").touch()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (corrupt_model, DataLoss),
        (empty_model, DataLoss),
        (corrupt_manifest, ManifestError),
        (contradicting_manifest, ManifestError),
    ],
)
def test_a_damaged_version_is_reported_while_the_old_one_serves(tmp_path, damage, error):
    async def scenario() -> None:
        publish(tmp_path, 1)
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0.01))
        await engine.start()
        damage(tmp_path / "m" / "2")
        async with asyncio.timeout(20):
            while not (failed := [s for s in engine.statuses("m") if s.error is not None]):  # noqa: ASYNC110  # as an operator would
                await asyncio.sleep(0.01)
        assert (failed[0].version, failed[0].state) == (2, VersionState.END)
        assert isinstance(failed[0].error, error)
        assert str(tmp_path) not in str(failed[0].error)
        assert engine.ready
        assert (await engine.infer(ask())).version == 1
        with pytest.raises(ModelNotReady):
            await engine.infer(InferenceRequest("m", ask().inputs, version=2))
        await engine.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("inline_us", [0.0, 100.0], ids=["in threads", "on the loop"])
def test_new_versions_under_load_fail_no_request(tmp_path, inline_us):
    """Five swaps under sixteen busy clients: no error, every answer is that of the version it names, none goes back."""
    seen: set[int] = set()

    async def client(engine: Engine, rows: int) -> int:
        served, newest = 0, 0
        while newest < 6:
            response = await engine.infer(ask(rows))
            assert response.outputs["y"].tolist() == [[float(response.version)]] * rows
            assert response.version >= newest
            newest = response.version
            seen.add(newest)
            served += 1
        return served

    async def scenario() -> None:
        publish(tmp_path, 1)
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0.01, inline_us=inline_us))
        await engine.start()
        clients = [asyncio.create_task(client(engine, 1 + i % 3)) for i in range(CLIENTS)]
        for version in range(2, 7):
            publish(tmp_path, version)
            async with asyncio.timeout(20):
                while engine.statuses("m")[-1].version != version or not engine.is_ready("m", version):  # noqa: ASYNC110  # as an operator would
                    await asyncio.sleep(0.01)
        served = await asyncio.gather(*clients)
        assert all(served)
        await asyncio.sleep(0.05)
        states = {status.version: status.state for status in engine.statuses("m")}
        assert states == {**dict.fromkeys(range(1, 6), VersionState.END), 6: VersionState.AVAILABLE}
        await engine.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert seen == {1, 2, 3, 4, 5, 6}


def test_a_flood_is_refused_and_every_request_gets_one_outcome(tmp_path):
    """Requests, bad ones, cancellations and a stop all at once: whatever was taken in is answered exactly once."""

    async def scenario() -> None:
        testing.write_slow(tmp_path / "m" / "1", width=256)
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0))
        await engine.start()
        outcomes: dict[int, int] = {}
        taken, refused, numbers = [], 0, itertools.count()

        def send() -> None:
            nonlocal refused
            number = next(numbers)

            def done(outcome: object) -> None:
                outcomes[number] = outcomes.get(number, 0) + 1

            rows = 1 + number % 200
            width = 255 if number % 11 == 0 else 256
            try:
                pending = engine.submit(InferenceRequest("m", {"x": np.zeros((rows, width), np.float32)}), done)
            except CornetError:
                refused += 1
                return
            taken.append(number)
            if number % 7 == 0:
                pending.cancel()

        for _ in range(20):
            for _ in range(50):
                send()
            await asyncio.sleep(0)
        await engine.stop()
        send()
        assert refused > 0
        assert outcomes == dict.fromkeys(taken, 1)

    asyncio.run(asyncio.wait_for(scenario(), 60))
