"""tensorflow.serving.ModelService: GetModelStatus."""

from services.engine.engine import Engine
from services.errors import ModelNotFound
from services.frontends.grpc.call import Call, MethodTable, UnaryMethod
from services.frontends.status import Dialect
from services.protocols import tfs_grpc

SERVICE = "tensorflow.serving.ModelService"
PROTOCOL = "tfs-grpc"


class ModelService:
    """The states of one engine's versions, as TensorFlow Serving reports them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def methods(self) -> MethodTable:
        return {
            f"/{SERVICE}/GetModelStatus": UnaryMethod(PROTOCOL, "GetModelStatus", self.get_model_status, Dialect.TFS)
        }

    def get_model_status(self, data: bytes, call: Call) -> None:
        model, version = tfs_grpc.decode_status_request(data)
        call.model = model
        try:
            statuses = self._engine.statuses(model, version)
        except ModelNotFound:
            statuses = []
        if not statuses:
            raise tfs_grpc.status_not_found(model, version)
        call.reply(tfs_grpc.encode_statuses(statuses))
