"""What Triton's statistics extension is asked, out of the engine's metrics, for both transports."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from services.engine.engine import Engine
from services.errors import InvalidArgument, ModelNotFound
from services.telemetry.statistics import VersionStatistics, statistics
from services.telemetry.tables import Tables

if TYPE_CHECKING:
    from services.telemetry.merged import Pages


def statistics_of(
    engine: Engine, model: str, version: int | None
) -> list[VersionStatistics] | Awaitable[list[VersionStatistics]]:
    """The statistics of every available version of every model ('') or of that one; or of that one version.

    They have to be waited for where processes share the ports: they are of all of them. Raises InvalidArgument, in Triton's
    words, for a model or version that does not serve.
    """
    pages = engine.metrics.pages
    if pages is None:
        return _statistics_of(engine, model, version, engine.metrics.tables)
    return _shared(pages, engine, model, version)


async def _shared(pages: "Pages", engine: Engine, model: str, version: int | None) -> list[VersionStatistics]:
    return _statistics_of(engine, model, version, await pages.tables())


def _statistics_of(engine: Engine, model: str, version: int | None, tables: Tables) -> list[VersionStatistics]:
    asked = (model,) if model else engine.models()
    available = {name: versions for name in asked if (versions := _available(engine, name))}
    if model and not available:
        raise InvalidArgument(f"requested model '{model:.200}' is not available")
    if model and version is not None and version not in available[model]:
        raise InvalidArgument(f"requested model version is not available for model '{model}'")
    counted = statistics(tables, available)
    return [one for one in counted if not model or version in (None, one.version)]


def _available(engine: Engine, model: str) -> list[int]:
    try:
        return engine.available_versions(model)
    except ModelNotFound:
        return []
