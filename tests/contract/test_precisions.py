"""A model and its variants on one server: same tensors for every client, each under its own name."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from services import testing
from services.engine.backend import OnnxBackend
from services.launch import ServerProcess
from services.manifest import Manifest, hash_files
from services.parity import write_samples
from training.exporter import Exported
from training.precision.evidence import Evidence
from training.precision.options import Precision, VariantOptions
from training.precision.variants import publish_variants

NAMES = ("mlp", "mlp-fp16", "mlp-int8")
ROWS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def precisions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves a small MLP of ours with its two variants."""
    repository = tmp_path_factory.mktemp("precisions")
    with ServerProcess(publish(repository)) as server:
        yield server


def publish(repository: Path) -> Path:
    version = repository / "mlp" / "1"
    testing.write_mlp(version)
    backend = OnnxBackend(version / "model.onnx")
    write_samples(version, {"features": ROWS}, backend.run("serving_default", {"features": ROWS}))
    created, files = "2026-01-01T00:00:00+00:00", hash_files(version)
    manifest = Manifest("mlp", "test", "", created, dict(backend.signatures), files=files)
    manifest.write(version)
    options = VariantOptions((Precision.FP16, Precision.INT8))
    outcomes = publish_variants(Exported(1, version, manifest), options, Evidence(), repository=repository)
    assert [outcome.refusal for outcome in outcomes] == ["", ""]
    return repository


def test_every_precision_takes_and_gives_float32_by_grpc(precisions: ServerProcess) -> None:
    answers = {}
    with triton.InferenceServerClient(precisions.grpc_address) as client:
        for name in NAMES:
            tensor = triton.InferInput("features", [40, 8], "FP32")
            tensor.set_data_from_numpy(ROWS)
            answers[name] = client.infer(name, [tensor]).as_numpy("prediction")
    spread = answers["mlp"].std()
    for name, limit in (("mlp-fp16", 0.01), ("mlp-int8", 0.2)):
        assert answers[name].dtype == np.float32
        distance = np.abs(answers[name] - answers["mlp"]).max()
        assert 0 < distance < limit * spread


def test_every_precision_has_the_same_metadata(precisions: ServerProcess) -> None:
    described = [httpx.get(f"{precisions.http_url}/v2/models/{name}").json() for name in NAMES]
    for name, metadata in zip(NAMES, described, strict=True):
        assert metadata == described[0] | {"name": name}
