"""A batch job answers what the server answers, bit for bit, for the same rows in one request."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tritonclient import grpc

from services import testing
from services.batch import run
from services.launch import ServerProcess
from services.manifest import Manifest
from services.processing import load_processor
from services.testing_typed import write_family

_ROWS = 16


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy cnn, and a tabular model whose matrix products round."""
    root = tmp_path_factory.mktemp("repository")
    write_family(root / "cnn" / "1", "cnn")
    testing.write_mlp(root / "mlp" / "1", (8, 64, 64, 3), seed=5)
    return root


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[grpc.InferenceServerClient]:
    with ServerProcess(repository, "--no-typed-endpoints") as server:
        connected = grpc.InferenceServerClient(server.grpc_address)
        yield connected
        connected.close()


def _ask(client: grpc.InferenceServerClient, model: str, name: str, array: np.ndarray, output: str) -> np.ndarray:
    sent = grpc.InferInput(name, list(array.shape), "UINT8" if array.dtype == np.uint8 else "FP32")
    sent.set_data_from_numpy(array)
    answer: np.ndarray = client.infer(model, [sent]).as_numpy(output)
    return answer


def _column(output: Path, name: str) -> np.ndarray:
    rows = pq.read_table(output / "rows").column(name).to_pylist()
    return np.array(rows, np.float32)


def test_pictures(client: grpc.InferenceServerClient, repository: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(7)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(2 * _ROWS):
        size = tuple(noise.integers(8, 60, 2))
        Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{index:02}.jpg")
    version = repository / "cnn" / "1"
    spec = Manifest.read(version).processor
    assert spec is not None
    encoded = load_processor(version, spec).encode(sorted(folder.iterdir()))["image"]

    run("cnn", folder, tmp_path / "out", repository=repository, batch_rows=_ROWS, workers=1)

    answers = [_ask(client, "cnn", "image", encoded[i : i + _ROWS], "probabilities") for i in (0, _ROWS)]
    assert np.array_equal(_column(tmp_path / "out", "probabilities"), np.concatenate(answers))


def test_rows_of_a_table(client: grpc.InferenceServerClient, repository: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(7).normal(size=(2 * _ROWS, 8)).astype(np.float32)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"features": {[float(v) for v in row]}}}\n' for row in rows), encoding="utf-8")

    run("mlp", source, tmp_path / "out", repository=repository, batch_rows=_ROWS)

    answers = [_ask(client, "mlp", "features", rows[i : i + _ROWS], "prediction") for i in (0, _ROWS)]
    assert np.array_equal(_column(tmp_path / "out", "prediction"), np.concatenate(answers))
