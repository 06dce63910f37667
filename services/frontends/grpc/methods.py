"""The one table of gRPC methods: full method name -> handler over bytes. Transports carry it, whichever they are."""

from services.engine.engine import Engine
from services.frontends.grpc import health, inference_service, model_service, prediction_service
from services.frontends.grpc.call import MethodTable
from services.frontends.grpc.health import HealthService
from services.frontends.grpc.inference_service import InferenceService
from services.frontends.grpc.model_service import ModelService
from services.frontends.grpc.prediction_service import PredictionService
from services.frontends.grpc.reflection import ReflectionService
from services.server_info import ServerInfo

_SERVED = (prediction_service.SERVICE, model_service.SERVICE, inference_service.SERVICE)


def build_methods(engine: Engine, info: ServerInfo) -> MethodTable:
    """Every method the server has."""
    return {
        **PredictionService(engine).methods(),
        **ModelService(engine).methods(),
        **InferenceService(engine, info).methods(),
        **HealthService(engine, (*_SERVED, health.SERVICE)).methods(),
        **ReflectionService((*_SERVED, health.SERVICE)).methods(),
    }
