"""One server in a subprocess for all contract tests, over toy models and a repository tests may read."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import testing
from services.launch import ServerProcess
from services.tensors import DTYPES


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy models, plain ONNX without a manifest: `<name>/<version>/model.onnx`. `offset` adds its version number."""
    root = tmp_path_factory.mktemp("repository")
    testing.write_half_plus_two(root / "half_plus_two" / "1")
    testing.write_offset(root / "offset" / "1", 1.0)
    testing.write_offset(root / "offset" / "2", 2.0)
    testing.write_string_join(root / "string_join" / "1")
    testing.write_multi(root / "multi" / "1")
    testing.write_lookup(root / "lookup" / "1")
    testing.write_not_batchable(root / "not_batchable" / "1")
    testing.write_mlp(root / "mlp" / "1")
    testing.write_slow(root / "slow" / "1")
    for dtype in DTYPES:
        testing.write_identity(root / f"identity_{dtype.name}" / "1", dtype.name)
    return root


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[ServerProcess]:
    """Serves every toy model; of `offset` both versions, labelled `stable` (1) and `canary` (2)."""
    models = repository.parent / f"{repository.name}.toml"
    tables = [f'repository = "{repository}"']
    for folder in sorted(repository.iterdir()):
        tables.append(f"[models.{folder.name}]")
        if folder.name == "offset":
            tables.append('versions = "all"\nlabels = { stable = 1, canary = 2 }')
    models.write_text("\n".join(tables), encoding="utf-8")
    with ServerProcess(repository, "--models", str(models)) as running:
        yield running


@pytest.fixture(scope="module")
def free_port() -> int:
    """For a server that cannot be told to pick one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
