"""The real engine over toy models of every task, and an HTTP client on the app in this process."""

import asyncio
import importlib
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from services.engine.engine import Engine, EngineOptions
from services.frontends.bento.app import typed_app
from services.testing_typed import write_families

Test: TypeAlias = Callable[[httpx.AsyncClient, Engine], Coroutine[Any, Any, Any]]
Serve: TypeAlias = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def bentoml_is_imported() -> None:
    """BentoML's dependencies warn of their own deprecations while they are imported; afterwards warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("services.frontends.bento.service")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("typed")
    write_families(root)
    return root


@pytest.fixture
def serve(repository: Path) -> Serve:
    """Run a coroutine function on a client and the engine; `folder` serves another repository."""

    def run(test: Test, folder: Path = repository, **options: Any) -> Any:
        async def body() -> Any:
            engine = Engine(EngineOptions(repository=folder, poll_interval_s=0))
            await engine.start()
            transport = httpx.ASGITransport(app=typed_app(engine, **options))  # type: ignore[arg-type]  # httpx spells ASGI by hand
            try:
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    return await test(client, engine)
            finally:
                await engine.stop()

        return asyncio.run(body())

    return run
