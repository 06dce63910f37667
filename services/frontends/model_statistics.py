"""What Triton's statistics extension is asked, out of the engine's metrics, for both transports."""

from services.engine.engine import Engine
from services.errors import InvalidArgument, ModelNotFound
from services.telemetry.statistics import VersionStatistics, statistics


def statistics_of(engine: Engine, model: str, version: int | None) -> list[VersionStatistics]:
    """The statistics of every available version of every model ('') or of that one; or of that one version.

    Raises InvalidArgument, in Triton's words, for a model or version that does not serve.
    """
    asked = (model,) if model else engine.models()
    available = {name: versions for name in asked if (versions := _available(engine, name))}
    if model and not available:
        raise InvalidArgument(f"requested model '{model:.200}' is not available")
    if model and version is not None and version not in available[model]:
        raise InvalidArgument(f"requested model version is not available for model '{model}'")
    counted = statistics(engine.metrics.tables, available)
    return [one for one in counted if not model or version in (None, one.version)]


def _available(engine: Engine, model: str) -> list[int]:
    try:
        return engine.available_versions(model)
    except ModelNotFound:
        return []
