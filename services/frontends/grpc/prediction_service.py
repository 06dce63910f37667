"""tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

from collections.abc import Sequence

from services.engine.engine import Engine
from services.engine.lanes import PackedRun
from services.frontends.grpc.call import Call, MethodTable, UnaryMethod
from services.frontends.grpc.short_way import ShortWay
from services.frontends.status import Dialect
from services.protocols import tfs_grpc
from services.protocols.forms import Forms, tfs_values

SERVICE = "tensorflow.serving.PredictionService"
PROTOCOL = "tfs-grpc"


class PredictionService:
    """TensorFlow Serving's predictions on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._short = ShortWay(
            engine, Forms(tfs_values), _encode_rows, lambda response, _: tfs_grpc.encode_predict(response)
        )

    def methods(self) -> MethodTable:
        return {
            f"/{SERVICE}/Predict": UnaryMethod(PROTOCOL, "Predict", self.predict, Dialect.TFS),
            f"/{SERVICE}/GetModelMetadata": UnaryMethod(
                PROTOCOL, "GetModelMetadata", self.get_model_metadata, Dialect.TFS
            ),
        }

    def predict(self, data: bytes, call: Call) -> None:
        if self._short.submit(data, call):
            return
        request = tfs_grpc.decode_predict(data)
        call.decoded(request.model)
        call.request = request
        request.deadline = call.deadline
        pending = self._engine.submit(request, lambda outcome: call.answer(outcome, tfs_grpc.encode_predict))
        call.on_cancel(pending.cancel)
        self._short.learn(data, request)

    def get_model_metadata(self, data: bytes, call: Call) -> None:
        address = tfs_grpc.decode_metadata_request(data)
        call.model = address.model
        with self._engine.acquire(address.model, address.version, address.label) as handle:
            servable = handle.servable
            call.version = servable.version
            call.reply(tfs_grpc.encode_metadata(servable.name, servable.version, servable.signatures))


def _encode_rows(run: PackedRun, rows: int, firsts: Sequence[int], _: Sequence[Call]) -> list[bytes] | None:
    identity = run.identity
    return tfs_grpc.encode_rows(identity.model, identity.version, identity.signature, run.outputs or {}, rows, firsts)
