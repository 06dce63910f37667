"""One server over toy models for all tests of load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services import testing, testing_typed
from services.launch import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves `mlp` (8 values in) and a typed `regressor`."""
    root: Path = tmp_path_factory.mktemp("load")
    testing.write_mlp(root / "mlp" / "1")
    testing_typed.write_family(root / "regressor" / "1", "regressor")
    with ServerProcess(root) as running:
        yield running
