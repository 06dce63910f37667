"""tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

from services.engine.engine import Engine
from services.frontends.grpc.call import Call, MethodTable, UnaryMethod
from services.frontends.status import Dialect
from services.protocols import tfs_grpc

SERVICE = "tensorflow.serving.PredictionService"
PROTOCOL = "tfs-grpc"


class PredictionService:
    """TensorFlow Serving's predictions on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def methods(self) -> MethodTable:
        return {
            f"/{SERVICE}/Predict": UnaryMethod(PROTOCOL, "Predict", self.predict, Dialect.TFS),
            f"/{SERVICE}/GetModelMetadata": UnaryMethod(
                PROTOCOL, "GetModelMetadata", self.get_model_metadata, Dialect.TFS
            ),
        }

    def predict(self, data: bytes, call: Call) -> None:
        request = tfs_grpc.decode_predict(data)
        call.decoded(request.model)
        call.request = request
        request.deadline = call.deadline
        pending = self._engine.submit(request, lambda outcome: call.answer(outcome, tfs_grpc.encode_predict))
        call.on_cancel(pending.cancel)

    def get_model_metadata(self, data: bytes, call: Call) -> None:
        address = tfs_grpc.decode_metadata_request(data)
        call.model = address.model
        with self._engine.acquire(address.model, address.version, address.label) as handle:
            servable = handle.servable
            call.version = servable.version
            call.reply(tfs_grpc.encode_metadata(servable.name, servable.version, servable.signatures))
