"""The short way answers as the general way does, to the byte, and leaves to it what it cannot."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import errors, testing
from services.engine.engine import Engine, EngineOptions
from services.frontends.grpc.call import Call, UnaryMethod, serve
from services.frontends.grpc.inference_service import InferenceService
from services.frontends.grpc.prediction_service import PredictionService
from services.protocols.messages import ModelInferRequest, ModelInferResponse, PredictRequest
from services.server_info import ServerInfo
from services.telemetry.metrics import Metrics


def in_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine as a test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Answered(Call):
    """A call of a transport that keeps what it was told to send."""

    def __init__(self, method: UnaryMethod, deadline: float | None, metrics: Metrics) -> None:
        super().__init__(method, (), deadline, metrics)
        self.sent: list[Any] = []

    def _send(self, data: bytes) -> None:
        self.sent.append(data)

    def _send_error(self, code: int, text: str) -> None:
        self.sent.append((code, text))


class Server:
    """An engine behind both dialects' methods. `runs` counts how often the short way took a run's answers."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.infer = InferenceService(engine, ServerInfo())
        self.predict = PredictionService(engine)
        self.taken: list[int] = []
        for service in (self.infer, self.predict):
            take = service._short.take
            monkeypatch.setattr(service._short, "take", self._counting(take))

    def _counting(self, take: Callable[..., None]) -> Callable[..., None]:
        def counting(run: Any, takers: Any, *more: Any) -> None:
            self.taken.append(len(takers))
            take(run, takers, *more)

        return counting

    def begin(self, data: bytes, deadline: float | None = None) -> Answered:
        """Serve a message of either dialect: a PredictRequest begins with a message, a ModelInferRequest with a name."""
        methods = self.infer.methods() | self.predict.methods()
        predict = data[2:3] == b"\n"
        name = (
            "/tensorflow.serving.PredictionService/Predict" if predict else "/inference.GRPCInferenceService/ModelInfer"
        )
        method = methods[name]
        assert isinstance(method, UnaryMethod)
        call = Answered(method, deadline, self.engine.metrics)
        serve(method, data, call)
        return call

    async def answers(self, *messages: bytes) -> list[Any]:
        """The one answer to each of some messages that arrive in one turn."""
        calls = [self.begin(data) for data in messages]
        async with asyncio.timeout(10):
            while not all(call.sent for call in calls):  # noqa: ASYNC110 - every turn of the loop is what is waited for
                await asyncio.sleep(0)
        assert all(len(call.sent) == 1 for call in calls)
        return [call.sent[0] for call in calls]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @asynccontextmanager
    async def start() -> AsyncIterator[Server]:
        options = EngineOptions(repository=tmp_path, poll_interval_s=0, inline_us=1e6, intra_op_threads=1)
        engine = Engine(options, metrics=Metrics(gpus=False))
        await engine.start()
        try:
            yield Server(engine, monkeypatch)
        finally:
            await engine.stop()

    return start


def infer(rows: np.ndarray, name: str = "x", datatype: str = "FP32", **more: Any) -> bytes:
    message = ModelInferRequest(model_name="m", **more)
    message.inputs.add(name=name, datatype=datatype, shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    data: bytes = message.SerializeToString()
    return data


def predict(rows: np.ndarray, name: str = "x", **more: Any) -> bytes:
    message = PredictRequest(**more)
    message.model_spec.name = "m"
    tensor = message.inputs[name]
    tensor.dtype = 1
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = rows.tobytes()
    data: bytes = message.SerializeToString()
    return data


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1)


MESSAGES: dict[str, Callable[[float], bytes]] = {
    "infer": lambda value: infer(floats(value)),
    "infer with an id": lambda value: infer(floats(value), id=f"request {value}"),
    "infer with a version": lambda value: infer(floats(value), model_version="1"),
    "infer of three rows": lambda value: infer(floats(value, value + 1, value + 2)),
    "infer of an output": lambda value: infer(floats(value), outputs=[{"name": "y"}], id="an id"),
    "infer as perf_analyzer writes it": lambda value: infer(
        floats(value),
        id=f"{value}",
        parameters={"triton_enable_empty_final_response": {"bool_param": True}},
        outputs=[{"name": "y"}],
    ),
    "predict": lambda value: predict(floats(value)),
    "predict of an output": lambda value: predict(floats(value), output_filter=["y"]),
    "predict of two rows": lambda value: predict(floats(value, -value)),
}


@pytest.mark.parametrize("write", MESSAGES.values(), ids=MESSAGES)
@in_a_loop
async def test_answers_are_those_of_the_general_way(served: Any, tmp_path: Path, write: Callable[[float], bytes]):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    messages = [write(value) for value in range(5)]
    async with served() as server:
        server.engine.metrics.listeners.append(lambda _: None)
        general = await server.answers(*messages)
        server.engine.metrics.listeners.clear()
        assert server.taken == []
        await server.answers(messages[0])
        assert await server.answers(*messages) == general
        assert server.taken[-1] == 5


@in_a_loop
async def test_a_time_limit_counts_anew_for_each_request(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    limited = infer(floats(1), parameters={"timeout": {"int64_param": 60_000_000}})
    async with served() as server:
        answers = [await server.answers(limited, limited) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert server.taken == []


@in_a_loop
async def test_answers_of_all_kinds_in_one_run_are_each_caller_s_own(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    messages = [write(number) for number, write in enumerate(MESSAGES.values())]
    async with served() as server:
        alone = [(await server.answers(data))[0] for data in messages]
        server.taken.clear()
        assert await server.answers(*messages) == alone
        assert sum(server.taken) == len(messages)
        assert server.engine.metrics.tables.batches.popitem()[1].runs.rows.total == 2 * (len(messages) + 3)


@in_a_loop
async def test_several_outputs_are_answered_in_their_order(served: Any, tmp_path: Path):
    testing.write_graph(
        tmp_path / "m" / "1",
        [("Neg", ["x"], ["minus"]), ("Greater", ["x", "minus"], ["above"]), ("Identity", ["x"], ["same"])],
        {"x": ("float32", (None, 2))},
        {"minus": ("float32", (None, 2)), "above": ("bool", (None, 2)), "same": ("float32", (None, 2))},
        {},
    )
    rows = np.array([[1, -2]], np.float32)
    for write in (infer, predict):
        async with served() as server:
            [general] = await server.answers(write(rows))
            assert await server.answers(write(rows), write(rows)) == [general, general]
            assert server.taken == [2]


@in_a_loop
async def test_outputs_that_must_be_encoded_one_by_one_are(served: Any, tmp_path: Path):
    testing.write_graph(
        tmp_path / "m" / "1",
        [("Cast", ["x"], ["y"], {"to": 7})],
        {"x": ("float32", (None, 1))},
        {"y": ("int64", (None, 1))},
        {},
    )
    async with served() as server:
        general = [(await server.answers(predict(floats(value))))[0] for value in (1, 300)]
        assert await server.answers(predict(floats(1)), predict(floats(300))) == general


@in_a_loop
async def test_a_new_version_answers_from_the_moment_it_is_available(served: Any, tmp_path: Path):
    testing.write_offset(tmp_path / "m" / "1", 100)
    async with served() as server:
        latest, first = infer(floats(0)), infer(floats(0), model_version="1")
        for data in (latest, latest, first, first):
            await server.answers(data)
        testing.write_offset(tmp_path / "m" / "2", 200)
        await server.engine._manager.poll()
        await server.engine._manager.settle()
        [data] = await server.answers(latest)
        assert ModelInferResponse.FromString(data).model_version == "2"
        assert np.frombuffer(ModelInferResponse.FromString(data).raw_output_contents[0], np.float32) == 200
        [refused] = await server.answers(first)
        assert refused[0] == errors.UNAVAILABLE


@in_a_loop
async def test_while_versions_come_and_go_every_request_is_answered_and_none_by_an_older_version_than_one_before(
    served: Any, tmp_path: Path
):
    testing.write_offset(tmp_path / "m" / "1", 100)
    async with served() as server:
        messages = [infer(floats(number)) for number in range(8)]
        answers: list[Any] = []
        for version in (2, 3, 4):
            testing.write_offset(tmp_path / "m" / str(version), 100 * version)
            await server.engine._manager.poll()
            settled = asyncio.create_task(server.engine._manager.settle())
            while not settled.done():
                answers += await server.answers(*messages)
        answers += await server.answers(*messages)
        parsed = [ModelInferResponse.FromString(data) for data in answers]
        versions = [int(message.model_version) for message in parsed]
        assert versions == sorted(versions)
        assert versions[-1] == 4
        for place, message in enumerate(parsed):
            value = np.frombuffer(message.raw_output_contents[0], np.float32)[0]
            assert value == 100 * int(message.model_version) + place % 8
        assert len(server.taken) > 3


@in_a_loop
async def test_what_the_model_does_not_take_is_refused_in_the_same_words_every_time(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        for data in (
            infer(floats(1), name="z"),
            predict(np.zeros((1, 3), np.float32)),
            infer(floats(1), model_version="9"),
        ):
            answers = [(await server.answers(data))[0] for _ in range(3)]
            assert answers[0] == answers[1] == answers[2]
            assert answers[0][0] in (errors.INVALID_ARGUMENT, errors.NOT_FOUND)


@in_a_loop
async def test_values_of_the_wrong_length_are_refused(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        await server.answers(infer(floats(1)))
        data = infer(floats(1))
        [(code, text)] = await server.answers(data.replace(b"\x3a\x04", b"\x3a\x08") + bytes(4))
        assert code == errors.INVALID_ARGUMENT
        assert "Received: 8." in text


@in_a_loop
async def test_a_deadline_that_has_passed_is_told_and_one_to_come_is_not_in_the_way(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        await server.answers(infer(floats(1)))
        late = server.begin(infer(floats(1)), server.engine.clock() - 1)
        assert late.sent[0][0] == errors.DEADLINE_EXCEEDED
        in_time = server.begin(infer(floats(1)), server.engine.clock() + 60)
        await server.answers(infer(floats(1)))
        assert isinstance(in_time.sent[0], bytes)


@in_a_loop
async def test_a_caller_that_goes_away_is_counted_and_not_answered(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        await server.answers(infer(floats(1)))
        gone = server.begin(infer(floats(1)))
        gone.cancel()
        await server.answers(infer(floats(1)))
        assert gone.sent == []
        codes = {key.code: series for key, series in server.engine.metrics.tables.requests.items()}
        codes[errors.CANCELLED].settle()
        assert codes[errors.CANCELLED].seconds.count == 1


@in_a_loop
async def test_requests_are_counted_as_those_of_the_general_way(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        data = infer(floats(1))
        for _ in range(3):
            [answer] = await server.answers(data)
        assert server.taken == [1, 1]
        ((key, series),) = server.engine.metrics.tables.requests.items()
        series.settle()
        assert (key.protocol, key.method, key.model, key.version, key.code) == ("oip-grpc", "ModelInfer", "m", "1", 0)
        assert [histogram.count for histogram in (series.seconds, *series.steps)] == [3] * 5
        assert sum(histogram.total for histogram in series.steps) <= series.seconds.total
        assert (series.received_bytes, series.sent_bytes) == (3 * len(data), 3 * len(answer))
        assert server.engine.metrics.arrived["oip-grpc"] == 3


@in_a_loop
async def test_after_the_end_the_answer_is_that_of_the_general_way(served: Any, tmp_path: Path):
    testing.write_half_plus_two(tmp_path / "m" / "1")
    async with served() as server:
        for _ in range(2):
            await server.answers(infer(floats(1)))
        stopping = asyncio.create_task(server.engine.stop())
        await asyncio.sleep(0)
        [(code, text)] = await server.answers(infer(floats(1)))
        assert (code, text) == (errors.UNAVAILABLE, "The server is shutting down.")
        await stopping
