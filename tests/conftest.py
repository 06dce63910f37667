"""What all tests share: a quiet TensorFlow, where the real data lies, and every family, exported once for a whole run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.engine.backend import Backend, BackendOptions
from services.engine.loader import open_backend
from services.engine.savedmodel_backend import SavedModelBackend
from services.processing import Processor
from services.tensors import DEFAULT_SIGNATURE
from training.environment import import_keras, provenance
from training.exporter import Exported, export
from training.options import parse
from training.pipeline import Arrays, CommonOptions, Examples, Loaded, Pipeline, ServingModel, Source, Trained
from training.pipelines import find

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

ROOT = Path(__file__).resolve().parent.parent


_LONGEST = ("tests/contract/test_readme.py", "tests/parity/", "tests/faults/test_batch_ray.py")
"""Files that keep one process busy for a minute or more: begun first, so that the other is not done long before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, a file each at a time, begin with the longest files."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder.parent.name}/{folder.name} beside the checkout")
    return folder


QUICKER = {
    "finetune": ("backbone=mobilenetv3-small", "weights=random", "height=32", "width=32", "fine_epochs=1"),
    "vgg16": ("weights=random", "height=64", "width=64", "probe_images=4"),
    "transformer": ("blocks=1", "width=16", "heads=2", "feed_forward=16", "length=24"),
    "text_to_image": ("blocks=1", "width=16", "heads=2", "feed_forward=16", "wordings=1"),
}
"""Beside one epoch: what keeps the largest networks within seconds."""


@dataclass
class Published:
    """One family's export, the Keras model it was made from, held-out rows, and both formats as a server loads them."""

    exported: Exported
    serving: ServingModel
    rows: Arrays
    backends: dict[str, Backend]

    def keras(self, rows: Arrays, signature: str = DEFAULT_SIGNATURE) -> dict[str, np.ndarray]:
        answers = self.serving.endpoints[signature].model(dict(rows), training=False)
        return {name: np.asarray(answer) for name, answer in answers.items()}


@dataclass(frozen=True)
class Fitted:
    """One run of a family up to its serving model: what the runner has in hand before it evaluates and exports."""

    model: Any
    loaded: Loaded
    processor: Processor
    train: Examples
    validation: Examples
    test: Examples
    serving: ServingModel

    @property
    def trained(self) -> Trained:
        return Trained(self.model, self.serving, self.train, self.validation, self.processor)


def fit(pipeline: Pipeline, options: CommonOptions, source: Source | None = None) -> Fitted:
    """Load, split, encode, build and fit, with nothing around it."""
    loaded = pipeline.load(source or Source(), options)
    split = pipeline.split(loaded.data, options)
    processor = pipeline.fit_processor(split.train, options)
    train, validation, test = (
        pipeline.examples(part, processor, options) for part in (split.train, split.validation, split.test)
    )
    import_keras(options.seed, deterministic=False)
    model = pipeline.build(train, processor, options)
    for index, stage in enumerate(pipeline.stages(options)):
        if index:
            pipeline.begin(model, train, stage.options)
        pipeline.fit(model, train, validation, stage.options, [])
    serving = pipeline.serving_model(model, train, validation, processor, options)
    return Fitted(model, loaded, processor, train, validation, test, serving)


@pytest.fixture(scope="session")
def fitted() -> Callable[..., Fitted]:
    """`fitted(pipeline, options, source)`: a model of a family, trained for a test."""
    return fit


@pytest.fixture(scope="session")
def exported_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `exported` publishes."""
    return tmp_path_factory.mktemp("exported_models")


@pytest.fixture(scope="session")
def exported(exported_repository: Path) -> Callable[[str], Published]:
    """Train and export a family on first use."""
    repository = exported_repository
    made: dict[str, Published | Exception] = {}

    def get(family: str) -> Published:
        if family not in made:
            try:
                made[family] = _publish(family, repository)
            except Exception as error:  # noqa: BLE001  # raised below, and not trained for again by the next test
                made[family] = error
        result = made[family]
        if isinstance(result, Exception):
            raise result
        return result

    return get


def _publish(family: str, repository: Path) -> Published:
    pipeline: Any = find(family)
    options = parse(pipeline.options, ["epochs=1", "deterministic=false", *QUICKER.get(family, ())])
    run = fit(pipeline, options)
    made = export(
        run.serving,
        repository=repository,
        name=family,
        family=family,
        task=pipeline.task,
        processor=run.processor,
        samples=run.test.serving_inputs,
        metrics={},
        baseline={},
        provenance=provenance(run.loaded, options, pipeline.base_weights(options)),
    )
    backends: dict[str, Backend] = {
        "onnx": open_backend(made.path, made.manifest, BackendOptions()),
        "saved_model": SavedModelBackend(made.path),
    }
    return Published(made, run.serving, run.test.serving_inputs, backends)
