"""tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

from services.engine.engine import Engine
from services.engine.merging import Arrays
from services.engine.request import InferenceRequest, InferenceResponse
from services.engine.scheduling import Identity
from services.frontends.grpc.call import Call, MethodTable, UnaryMethod
from services.frontends.grpc.short_way import ShortWay, Texts
from services.frontends.runs import RunCounter
from services.frontends.status import Dialect
from services.protocols import tfs_grpc
from services.protocols.forms import tfs_values

SERVICE = "tensorflow.serving.PredictionService"
PROTOCOL = "tfs-grpc"


class PredictionService:
    """TensorFlow Serving's predictions on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._short = _PredictShortWay(engine, tfs_values, self.predict, RunCounter(engine, PROTOCOL, "Predict"))

    def methods(self) -> MethodTable:
        return {
            f"/{SERVICE}/Predict": UnaryMethod(PROTOCOL, "Predict", self._short.handle, Dialect.TFS),
            f"/{SERVICE}/GetModelMetadata": UnaryMethod(
                PROTOCOL, "GetModelMetadata", self.get_model_metadata, Dialect.TFS
            ),
        }

    def predict(self, data: bytes, call: Call) -> InferenceRequest:
        request = tfs_grpc.decode_predict(data)
        call.decoded(request.model)
        call.request = request
        request.deadline = call.deadline
        call.work = self._engine.submit(request, lambda outcome: call.answer(outcome, tfs_grpc.encode_predict))
        return request

    def get_model_metadata(self, data: bytes, call: Call) -> None:
        address = tfs_grpc.decode_metadata_request(data)
        call.model = address.model
        with self._engine.acquire(address.model, address.version, address.label) as handle:
            servable = handle.servable
            call.version = servable.version
            call.reply(tfs_grpc.encode_metadata(servable.name, servable.version, servable.signatures))


class _PredictShortWay(ShortWay):
    def texts(self, identity: Identity, outputs: Arrays, rows: int) -> Texts:
        return tfs_grpc.around_values(identity.model, identity.version, identity.signature, outputs, rows)

    def encode(self, response: InferenceResponse, call: Call) -> bytes:  # noqa: ARG002 - the answer repeats nothing of it
        return tfs_grpc.encode_predict(response)
