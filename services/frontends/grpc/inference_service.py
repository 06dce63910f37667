"""inference.GRPCInferenceService: the Open Inference Protocol's liveness, metadata and inference."""

import asyncio
from collections.abc import Awaitable, Sequence

from services.engine.engine import Engine
from services.engine.lanes import PackedRun
from services.engine.merging import Arrays
from services.engine.request import InferenceRequest, InferenceResponse
from services.engine.scheduling import Identity
from services.errors import ModelNotFound
from services.frontends.grpc.call import Call, MethodTable, UnaryHandler, UnaryMethod
from services.frontends.grpc.short_way import ShortWay, Texts
from services.frontends.model_description import describe_model
from services.frontends.model_statistics import statistics_of
from services.frontends.runs import RunCounter
from services.frontends.status import Dialect, to_cornet
from services.protocols import model_configuration, model_statistics, oip_grpc
from services.protocols.forms import oip_values
from services.server_info import ServerInfo
from services.telemetry.statistics import VersionStatistics

SERVICE = "inference.GRPCInferenceService"
PROTOCOL = "oip-grpc"


class InferenceService:
    """The Open Inference Protocol on one engine."""

    def __init__(self, engine: Engine, info: ServerInfo) -> None:
        self._engine = engine
        self._info = info
        self._replying: set[asyncio.Future[None]] = set()
        self._short = _InferShortWay(engine, oip_values, self.model_infer, RunCounter(engine, PROTOCOL, "ModelInfer"))

    def methods(self) -> MethodTable:
        handlers: dict[str, UnaryHandler] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self._short.handle,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
        }
        return {
            f"/{SERVICE}/{name}": UnaryMethod(PROTOCOL, name, handler, Dialect.OIP)
            for name, handler in handlers.items()
        }

    def server_live(self, data: bytes, call: Call) -> None:  # noqa: ARG002 - the request has no fields
        call.reply(oip_grpc.encode_server_live(True))

    def server_ready(self, data: bytes, call: Call) -> None:  # noqa: ARG002 - the request has no fields
        call.reply(oip_grpc.encode_server_ready(self._engine.ready))

    def model_ready(self, data: bytes, call: Call) -> None:
        model, version = oip_grpc.decode_model_request(data, ready=True)
        call.model = model
        call.reply(oip_grpc.encode_model_ready(is_ready(self._engine, model, version)))

    def server_metadata(self, data: bytes, call: Call) -> None:  # noqa: ARG002 - the request has no fields
        info = self._info
        call.reply(oip_grpc.encode_server_metadata(info.name, info.version, info.extensions))

    def model_metadata(self, data: bytes, call: Call) -> None:
        model, version = oip_grpc.decode_model_request(data, ready=False)
        call.model = model
        with self._engine.acquire(model, version) as handle:
            servable = handle.servable
            call.version = servable.version
            versions = [servable.version] if version is not None else self._engine.available_versions(model)
            call.reply(oip_grpc.encode_model_metadata(servable.name, versions, servable.platform, servable.signatures))

    def model_config(self, data: bytes, call: Call) -> None:
        model, version = model_configuration.decode_request(data)
        call.model = model
        with self._engine.acquire(model, version) as handle:
            call.version = handle.servable.version
            call.reply(model_configuration.encode_grpc(describe_model(handle.servable)))

    def model_statistics(self, data: bytes, call: Call) -> None:
        model, version = model_statistics.decode_request(data)
        call.model = model
        counted = statistics_of(self._engine, model, version)
        if isinstance(counted, list):
            call.reply(model_statistics.encode_grpc(counted))
        else:
            task = asyncio.ensure_future(_reply_statistics(call, counted))
            self._replying.add(task)
            task.add_done_callback(self._replying.discard)

    def model_infer(self, data: bytes, call: Call) -> InferenceRequest | None:
        infer = oip_grpc.decode_infer(data)
        request = infer.request
        call.decoded(request.model)
        call.request = request
        request.deadline = call.deadline
        if infer.timeout_us:
            asked = self._engine.clock() + infer.timeout_us / 1e6
            request.deadline = asked if call.deadline is None else min(asked, call.deadline)

        def encode(response: InferenceResponse) -> bytes:
            return oip_grpc.encode_infer(response, infer.id)

        call.work = self._engine.submit(request, lambda outcome: call.answer(outcome, encode))
        return None if infer.timeout_us else request  # which counts from when it is read


async def _reply_statistics(call: Call, counted: Awaitable[list[VersionStatistics]]) -> None:
    try:
        call.reply(model_statistics.encode_grpc(await counted))
    except Exception as error:  # noqa: BLE001 - reported to the client and logged
        call.fail(to_cornet(error))


def is_ready(engine: Engine, model: str, version: int | None = None) -> bool:
    """Whether the model answers; one that is not known does not, and asking is no error, as in Triton."""
    try:
        return engine.is_ready(model, version)
    except ModelNotFound:
        return False


class _InferShortWay(ShortWay):
    """Serves messages with an id, too, which differs from one to the next: the form is that of the rest."""

    def miss(self, data: bytes, call: Call) -> None:
        id_at = oip_grpc.id_field(data)
        if id_at is None:
            super().miss(data, call)
            return
        first, last = id_at
        form = self.forms.match_without(data, first, last)
        if form is None:
            self.learn(data[:first] + data[last:], self.read(data, call))
            return
        call.echo = data[first:last]  # in the answer the field has the same number
        if self.enter(form, data, form.start + last - first, call):
            form.lane.memo.echoing = True
        else:
            self.read(data, call)

    def texts(self, identity: Identity, outputs: Arrays, rows: int) -> Texts:
        return oip_grpc.around_values(identity.model, identity.version, outputs, rows)

    def repeat(self, run: PackedRun, answers: Sequence[bytes], calls: Sequence[Call]) -> list[bytes]:
        at = oip_grpc.id_place(run.identity.model, run.identity.version)
        return [answer[:at] + call.echo + answer[at:] for answer, call in zip(answers, calls, strict=True)]

    def encode(self, response: InferenceResponse, call: Call) -> bytes:
        return oip_grpc.encode_infer(response, call.echo[2:].decode())  # behind the id's tag and length
