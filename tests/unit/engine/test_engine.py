import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import testing
from services.engine.engine import Engine, EngineOptions, _inline_s, _pause_s
from services.engine.model_config import ModelConfig
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.errors import (
    CornetError,
    InvalidArgument,
    ModelNotFound,
    ShuttingDown,
    SignatureNotFound,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    testing.write_half_plus_two(root / "half_plus_two" / "00000123")
    testing.write_multi(root / "multi" / "1")
    testing.write_row_lengths(root / "tokens" / "1")
    testing.write_not_batchable(root / "fixed" / "1")
    testing.write_lookup(root / "lookup" / "1")
    testing.write_string_join(root / "join" / "1")
    testing.write_slow(root / "slow" / "1")
    return root


@pytest.fixture
def serve(repository: Path) -> Callable[..., None]:
    """Run a scenario on a started engine, and stop it."""

    def run(scenario: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
        async def whole() -> None:
            engine = Engine(EngineOptions(repository=repository, poll_interval_s=0, **options))
            await engine.start()
            try:
                await scenario(engine)
            finally:
                await engine.stop()

        asyncio.run(whole())

    return run


def half(rows: int, **more: Any) -> InferenceRequest:
    return InferenceRequest("half_plus_two", {"x": np.arange(rows, dtype=np.float32)[:, None]}, **more)


def test_an_answer_names_the_version_that_computed_it(serve):
    async def scenario(engine: Engine) -> None:
        response = await engine.infer(half(3))
        assert (response.model, response.version, response.signature) == ("half_plus_two", 123, "serving_default")
        assert response.outputs["y"].tolist() == [[2], [2.5], [3]]
        assert (await engine.infer(half(1, version=123))).version == 123

    serve(scenario)


@pytest.mark.parametrize("inline_us", [0.0, 1e6], ids=["in a thread", "on the loop"])
def test_many_requests_at_once_each_get_their_own_rows(serve, inline_us):
    async def scenario(engine: Engine) -> None:
        requests = [
            InferenceRequest("half_plus_two", {"x": np.full((1 + i % 5, 1), i, np.float32)}) for i in range(200)
        ]
        responses = await asyncio.gather(*map(engine.infer, requests))
        for i, response in enumerate(responses):
            assert response.outputs["y"].tolist() == [[i / 2 + 2]] * (1 + i % 5)
        assert max(response.batch_rows for response in responses) > 1

    serve(scenario, inline_us=inline_us)


@pytest.mark.parametrize(
    ("inline_us", "cpus", "seconds"), [(None, 2, 1e-4), (None, 1, 2e-3), (0.0, 1, 0.0), (50.0, 1, 5e-5)]
)
def test_one_cpu_alone_computes_longer_batches_on_the_loop(inline_us, cpus, seconds):
    assert _inline_s(inline_us, cpus) == seconds


def test_only_the_outputs_asked_for_are_answered(serve):
    async def scenario(engine: Engine) -> None:
        inputs = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.int32), "flag": np.ones((1, 1), bool)}
        alone, every = await asyncio.gather(
            engine.infer(InferenceRequest("multi", inputs, outputs=("count",))),
            engine.infer(InferenceRequest("multi", inputs)),
        )
        assert list(alone.outputs) == ["count"]
        assert list(every.outputs) == ["total", "count", "above"]

    serve(scenario)


def test_texts_of_unlike_length_are_served_side_by_side(serve):
    async def scenario(engine: Engine) -> None:
        requests = [InferenceRequest("tokens", {"tokens": np.ones((1, 1 + i % 3), np.int32)}) for i in range(12)]
        responses = await asyncio.gather(*map(engine.infer, requests))
        assert [response.outputs["sum"].tolist() for response in responses] == [[1 + i % 3] for i in range(12)]

    serve(scenario)


def test_a_model_without_a_batch_axis_is_served(serve):
    async def scenario(engine: Engine) -> None:
        x = np.arange(4, dtype=np.float32).reshape(2, 2)
        requests = [InferenceRequest("fixed", {"x": x, "scale": np.array(s, np.float32)}) for s in (1.0, 2.0, 3.0)]
        responses = await asyncio.gather(*map(engine.infer, requests))
        assert [response.outputs["y"][1, 1] for response in responses] == [3, 6, 9]

    serve(scenario)


def test_strings_are_bytes_in_and_out(serve):
    async def scenario(engine: Engine) -> None:
        requests = [
            InferenceRequest("join", {"left": np.array([b"a"], object), "right": np.array([right], object)})
            for right in (b"b", b"", "ü".encode())
        ]
        responses = await asyncio.gather(*map(engine.infer, requests))
        assert [response.outputs["joined"].tolist() for response in responses] == [[b"ab"], [b"a"], ["aü".encode()]]

    serve(scenario)


def test_one_request_s_values_cost_no_other_its_answer(serve):
    async def scenario(engine: Engine) -> None:
        requests = [InferenceRequest("lookup", {"id": np.array([i])}) for i in (3, 99, 4)]
        good, bad, fine = await asyncio.gather(*map(engine.infer, requests), return_exceptions=True)
        assert isinstance(good, InferenceResponse)
        assert isinstance(fine, InferenceResponse)
        assert good.outputs["value"].tolist() == [30]
        assert fine.outputs["value"].tolist() == [40]
        assert isinstance(bad, InvalidArgument)

    serve(scenario)


def test_a_request_larger_than_a_batch_is_answered_whole(serve):
    async def scenario(engine: Engine) -> None:
        response = await engine.infer(half(1000))
        assert response.outputs["y"][:, 0].tolist() == [i / 2 + 2 for i in range(1000)]

    serve(scenario)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (InferenceRequest("nope", {}), ModelNotFound, r"Servable not found for request: Latest\(nope\)"),
        (half(1, version=9), ModelNotFound, r"Specific\(half_plus_two, 9\)"),
        (half(1, label="stable"), InvalidArgument, "Unrecognized servable version label: stable"),
        (half(1, signature="other"), SignatureNotFound, 'Serving signature key "other" not found'),
        (half(1, outputs=("z",)), InvalidArgument, "not found in signature: z"),
        (half(0), InvalidArgument, "at least one row"),
        (
            InferenceRequest("half_plus_two", {"x": np.zeros((1, 2), np.float32)}),
            InvalidArgument,
            r"Expected x: float32 \[-1, 1\]",
        ),
    ],
)
def test_what_is_wrong_at_once_is_raised_at_once_and_calls_nobody_back(serve, request_, error, message):
    async def scenario(engine: Engine) -> None:
        outcomes: list[Outcome] = []
        with pytest.raises(error, match=message):
            engine.submit(request_, outcomes.append)
        await asyncio.sleep(0.01)
        assert outcomes == []

    serve(scenario)


def test_an_empty_signature_name_is_the_default_one(serve):
    async def scenario(engine: Engine) -> None:
        assert (await engine.infer(half(1, signature=""))).signature == "serving_default"

    serve(scenario)


def test_cancelling_the_task_withdraws_the_request(serve):
    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.infer(InferenceRequest("slow", {"x": np.ones((64, 1024), np.float32)})))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with engine.acquire("slow") as handle:
            assert handle.servable.queued_rows == 0

    serve(scenario)


def test_draining_turns_readiness_off_and_still_serves(serve):
    async def scenario(engine: Engine) -> None:
        assert engine.ready
        engine.drain()
        assert not engine.ready
        assert (await engine.infer(half(1))).version == 123

    serve(scenario)


def test_stopping_finishes_what_runs_and_takes_nothing_more(serve):
    async def scenario(engine: Engine) -> None:
        request = InferenceRequest("slow", {"x": np.ones((4, 1024), np.float32)})
        running = [asyncio.create_task(engine.infer(request)) for _ in range(20)]
        await asyncio.sleep(0)
        await engine.stop()
        responses = await asyncio.gather(*running)
        assert all(response.outputs["y"].shape == (4, 1024) for response in responses)
        with pytest.raises(ShuttingDown):
            engine.submit(request, lambda outcome: None)
        await engine.stop()

    serve(scenario)


def test_what_does_not_finish_in_time_is_told_so(serve):
    async def scenario(engine: Engine) -> None:
        request = InferenceRequest("slow", {"x": np.ones((64, 1024), np.float32)})
        running = [asyncio.create_task(engine.infer(request)) for _ in range(16)]
        await asyncio.sleep(0)
        await engine.stop()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        assert any(isinstance(outcome, ShuttingDown) for outcome in outcomes)
        assert all(isinstance(outcome, InferenceResponse | CornetError) for outcome in outcomes)

    serve(scenario, drain_timeout_s=0.0)


def test_a_handle_shows_what_is_loaded(serve):
    async def scenario(engine: Engine) -> None:
        with engine.acquire("multi", 1) as handle:
            assert (handle.servable.name, handle.servable.version, handle.servable.path.name) == ("multi", 1, "1")
            assert not handle.servable.idle
        assert handle.servable.idle

    serve(scenario)


def test_models_and_their_readiness_can_be_asked_for(serve):
    async def scenario(engine: Engine) -> None:
        assert "half_plus_two" in engine.models()
        assert engine.is_ready("half_plus_two")
        assert engine.is_ready("half_plus_two", 123)
        with pytest.raises(ModelNotFound):
            engine.is_ready("half_plus_two", 1)

    serve(scenario)


def test_before_the_start_nothing_is_ready(repository):
    engine = Engine(EngineOptions(repository=repository), [ModelConfig("half_plus_two", repository / "half_plus_two")])
    assert not engine.ready
    assert engine.models() == ("half_plus_two",)
    with pytest.raises(ModelNotFound):
        engine.acquire("half_plus_two")


def test_one_name_is_configured_once(repository):
    config = ModelConfig("m", repository / "m")
    with pytest.raises(InvalidArgument, match="Received twice: m"):
        Engine(EngineOptions(), [config, config])


def test_a_version_published_while_it_runs_is_picked_up(tmp_path):
    async def scenario() -> None:
        testing.write_offset(tmp_path / "m" / "1", 1)
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0.01))
        await engine.start()
        testing.write_offset(tmp_path / "staging" / "2", 2)
        (tmp_path / "staging" / "2").rename(tmp_path / "m" / "2")
        request = InferenceRequest("m", {"x": np.zeros((1, 1), np.float32)})
        async with asyncio.timeout(10):
            while (response := await engine.infer(request)).version != 2:  # noqa: ASYNC110  # a poll is what is tested
                await asyncio.sleep(0.005)
        assert response.outputs["y"].tolist() == [[2]]
        await engine.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(("now", "pause_s"), [(100.0, 0.5), (100.125, 0.375), (100.375, 0.125), (100.4995, 0.5005)])
def test_looks_at_the_disk_fall_on_multiples_of_the_interval(now: float, pause_s: float) -> None:
    """Then processes that start at different times look at the same moments; one that is due at once waits for the next."""
    assert _pause_s(0.5, now) == pytest.approx(pause_s)
