"""The whole method table on a real engine with toy models, called without a transport."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from services import errors
from services.engine.engine import Engine, EngineOptions
from services.engine.model_config import ModelConfig
from services.frontends.grpc.call import Call, MethodTable, StreamContext, StreamMethod, UnaryMethod, serve
from services.frontends.grpc.health import HealthService
from services.frontends.grpc.methods import build_methods
from services.protocols import messages, tensor_proto
from services.protocols.oip_raw import encode_raw
from services.server_info import ServerInfo
from services.telemetry.metrics import Metrics
from services.testing import write_half_plus_two, write_offset

PREDICTION = "/tensorflow.serving.PredictionService"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
INFERENCE = "/inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Awaited(Call):
    """A call whose answer, bytes or (code, text), is a future."""

    def __init__(self, method: UnaryMethod, deadline: float | None) -> None:
        super().__init__(method, (), deadline, Metrics(gpus=False))
        self.answered: asyncio.Future[bytes | tuple[int, str]] = asyncio.get_running_loop().create_future()

    def _send(self, data: bytes) -> None:
        self.answered.set_result(data)

    def _send_error(self, code: int, text: str) -> None:
        self.answered.set_result((code, text))


@dataclass
class Server:
    engine: Engine
    methods: MethodTable

    async def call(self, name: str, request: object, deadline: float | None = None) -> bytes | tuple[int, str]:
        method = self.methods[name]
        assert isinstance(method, UnaryMethod)
        call = Awaited(method, deadline)
        serve(method, request.SerializeToString(), call)
        return await asyncio.wait_for(call.answered, 20)

    def stream(self, name: str, *requests: bytes) -> AsyncIterator[bytes]:
        async def sent() -> AsyncIterator[bytes]:
            for request in requests:
                yield request

        method = self.methods[name]
        assert isinstance(method, StreamMethod)
        return method.handler(sent(), StreamContext())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_half_plus_two(root / "half_plus_two" / "123")
    write_offset(root / "offset" / "1", 1.0)
    write_offset(root / "offset" / "2", 2.0)
    broken = root / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"no model")
    return root


@pytest.fixture
def run(repository: Path) -> Callable[[Callable[[Server], Awaitable[None]]], None]:
    """Run a scenario against a started engine."""

    def start(scenario: Callable[[Server], Awaitable[None]], *, models: tuple[str, ...] = ("half_plus_two",)) -> None:
        async def main() -> None:
            configs = [ModelConfig(name=name, path=repository / name) for name in models]
            engine = Engine(EngineOptions(repository, poll_interval_s=0, load_retries=0), configs)
            await engine.start()
            try:
                await scenario(Server(engine, build_methods(engine, ServerInfo("cornet", "1.2"))))
            finally:
                await engine.stop()

        asyncio.run(main())

    return start


def predict(model: str = "half_plus_two", **spec: object):
    request = messages.PredictRequest(model_spec={"name": model, **spec})
    request.inputs["x"].MergeFromString(tensor_proto.encode(np.array([[1.0]], np.float32)))
    return request


def infer(model: str = "half_plus_two"):
    one = np.array([[1.0]], np.float32)
    return messages.ModelInferRequest(
        model_name=model,
        id="r1",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 1]}],
        raw_input_contents=[encode_raw(one)],
    )


def test_predict_answers_with_the_version_that_computed(run) -> None:
    async def scenario(server: Server) -> None:
        answer = messages.PredictResponse.FromString(await server.call(f"{PREDICTION}/Predict", predict()))
        assert answer.model_spec.version.value == 123
        assert tensor_proto.decode(answer.outputs["y"], "y").tolist() == [[2.5]]

    run(scenario)


def test_model_infer_answers_with_the_version_that_computed(run) -> None:
    async def scenario(server: Server) -> None:
        answer = messages.ModelInferResponse.FromString(await server.call(f"{INFERENCE}/ModelInfer", infer()))
        assert (answer.model_version, answer.id) == ("123", "r1")
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2.5]

    run(scenario)


@pytest.mark.parametrize(
    ("method", "request_"), [(f"{PREDICTION}/Predict", predict()), (f"{INFERENCE}/ModelInfer", infer())]
)
def test_a_deadline_in_the_past_is_exceeded(run, method: str, request_) -> None:
    async def scenario(server: Server) -> None:
        code, _ = await server.call(method, request_, deadline=server.engine.clock() - 1)
        assert code == errors.DEADLINE_EXCEEDED

    run(scenario)


def test_the_timeout_parameter_is_a_deadline(run) -> None:
    deadlines: list[float | None] = []

    async def scenario(server: Server) -> None:
        submit = server.engine.submit
        server.engine.submit = lambda request, done: (deadlines.append(request.deadline), submit(request, done))[1]
        request = infer()
        request.parameters["timeout"].int64_param = 60_000_000
        now = server.engine.clock()
        await server.call(f"{INFERENCE}/ModelInfer", request)
        await server.call(f"{INFERENCE}/ModelInfer", request, deadline=now + 30)
        assert now + 60 <= deadlines[0] < now + 80
        assert deadlines[1] == now + 30

    run(scenario)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict("nope"), errors.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (predict(signature_name="nope"), errors.FAILED_PRECONDITION, 'Serving signature key "nope" not found.'),
        (predict(version_label="nope"), errors.INVALID_ARGUMENT, "Unrecognized servable version label: nope"),
    ],
)
def test_what_the_engine_refuses_reaches_the_client(run, request_, code: int, text: str) -> None:
    async def scenario(server: Server) -> None:
        got, message = await server.call(f"{PREDICTION}/Predict", request_)
        assert got == code
        assert message.startswith(text)

    run(scenario)


def test_metadata_comes_from_the_loaded_version(run) -> None:
    async def scenario(server: Server) -> None:
        request = messages.GetModelMetadataRequest(
            model_spec={"name": "half_plus_two"}, metadata_field=["signature_def"]
        )
        data = await server.call(f"{PREDICTION}/GetModelMetadata", request)
        answer = messages.GetModelMetadataResponse.FromString(data)
        definitions = messages.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
        assert list(definitions.signature_def["serving_default"].inputs) == ["x"]

        data = await server.call(f"{INFERENCE}/ModelMetadata", messages.ModelMetadataRequest(name="half_plus_two"))
        answer = messages.ModelMetadataResponse.FromString(data)
        assert (list(answer.versions), [tensor.name for tensor in answer.inputs]) == (["123"], ["x"])

    run(scenario)


def test_a_version_that_failed_to_load_is_reported_with_its_reason(run) -> None:
    async def scenario(server: Server) -> None:
        request = messages.GetModelStatusRequest(model_spec={"name": "broken"})
        answer = messages.GetModelStatusResponse.FromString(await server.call(STATUS, request))
        [row] = answer.model_version_status
        assert row.version == 1
        assert row.status.error_code != errors.OK
        assert row.status.error_message

    run(scenario, models=("half_plus_two", "broken"))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"name": "nope"}, "Could not find any versions of model nope"),
        ({"name": "half_plus_two", "version": {"value": 4}}, "Could not find version 4 of model half_plus_two"),
    ],
)
def test_status_of_what_is_unknown_is_not_found(run, spec: dict[str, object], text: str) -> None:
    async def scenario(server: Server) -> None:
        answer = await server.call(STATUS, messages.GetModelStatusRequest(model_spec=spec))
        assert answer == (errors.NOT_FOUND, text)

    run(scenario)


def test_readiness_follows_the_drain(run) -> None:
    async def ready(server: Server) -> tuple[bool, int]:
        data = await server.call(f"{INFERENCE}/ServerReady", messages.ServerMetadataResponse())
        check = await server.call(f"{HEALTH}/Check", health_pb2.HealthCheckRequest())
        status = health_pb2.HealthCheckResponse.FromString(check).status
        return messages.ServerReadyResponse.FromString(data).ready, status

    async def scenario(server: Server) -> None:
        assert await ready(server) == (True, SERVING)
        server.engine.drain()
        assert await ready(server) == (False, NOT_SERVING)
        live = await server.call(f"{INFERENCE}/ServerLive", messages.ServerMetadataResponse())
        assert messages.ServerLiveResponse.FromString(live).live

    run(scenario)


def test_a_model_that_did_not_load_is_not_serving_while_others_are(run) -> None:
    async def scenario(server: Server) -> None:
        statuses = []
        for model in ("half_plus_two", "broken"):
            data = await server.call(f"{HEALTH}/Check", health_pb2.HealthCheckRequest(service=model))
            statuses.append(health_pb2.HealthCheckResponse.FromString(data).status)
        assert statuses == [SERVING, NOT_SERVING]

    run(scenario, models=("half_plus_two", "broken"))


def test_watching_health_tells_of_the_drain(run) -> None:
    async def scenario(server: Server) -> None:
        server.methods.update(HealthService(server.engine, (), watch_interval_s=0.001).methods())
        watched = server.stream(f"{HEALTH}/Watch", b"")
        seen = [health_pb2.HealthCheckResponse.FromString(await anext(watched)).status]
        server.engine.drain()
        seen.append(health_pb2.HealthCheckResponse.FromString(await asyncio.wait_for(anext(watched), 20)).status)
        assert seen == [SERVING, NOT_SERVING]
        await watched.aclose()

    run(scenario)


def test_server_metadata_carries_the_configured_name(run) -> None:
    async def scenario(server: Server) -> None:
        data = await server.call(f"{INFERENCE}/ServerMetadata", messages.ServerMetadataResponse())
        answer = messages.ServerMetadataResponse.FromString(data)
        assert (answer.name, answer.version) == ("cornet", "1.2")

    run(scenario)


@pytest.mark.parametrize(
    "method", ["/grpc.reflection.v1.ServerReflection", "/grpc.reflection.v1alpha.ServerReflection"]
)
def test_reflection_refuses_bytes_that_are_no_message(run, method: str) -> None:
    async def scenario(server: Server) -> None:
        with pytest.raises(errors.InvalidArgument, match="Could not parse ServerReflectionRequest"):
            await anext(server.stream(f"{method}/ServerReflectionInfo", b"\xff\xff"))

    run(scenario)
