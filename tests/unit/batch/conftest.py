"""Toy models of every task, and small inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from services import testing
from services.batch import Summary, run
from services.testing_typed import toys, write_family


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for family in toys():
        write_family(root / family / "1", family)
    testing.write_multi(root / "multi" / "1")
    testing.write_signatures(root / "signatures" / "1")
    testing.write_lookup(root / "lookup" / "1")
    testing.write_not_batchable(root / "not_batchable" / "1")
    testing.write_string_join(root / "string_join" / "1")
    return root


@pytest.fixture
def job(repository: Path, tmp_path: Path) -> Callable[..., Summary]:
    """`job(model, input, **options)`: decoded in this process, written to `tmp_path / "out"`."""

    def start(model: str, source: Path | str, **options: Any) -> Summary:
        given = {"repository": repository, "workers": 0, **options}
        return run(model, source, given.pop("output", tmp_path / "out"), **given)

    return start


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten grey pictures of the toy cnn's size, `0.png` black to `9.png` nearly white."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(10):
        Image.fromarray(np.full((8, 8), index * 28, np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """`rows()`: what the job has written, in order."""
    return lambda: pq.read_table(tmp_path / "out" / "rows").to_pylist()


@pytest.fixture
def errors(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """`errors()`: reasons by key."""

    def read() -> dict[str, str]:
        return {row["key"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()}

    return read
