"""What every model family promises, whoever wrote it; a family that is added is tested by being there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.pipelines
from services.errors import NotFound
from services.manifest import TASKS
from services.tensors import DYNAMIC, TensorSpec
from training.options import check, options_of
from training.pipeline import CommonOptions, Pipeline, Source
from training.pipelines import find, pipelines

FAMILIES = sorted(pipelines())
ROWS = 3

Shape = tuple[int | str, ...]
SIGNATURES: dict[str, tuple[dict[str, tuple[str, Shape]], dict[str, tuple[str, Shape]]]] = {
    "regressor": ({"features": ("float32", (-1, "F"))}, {"prediction": ("float32", (-1, 1))}),
    "classifier": ({"features": ("float32", (-1, "F"))}, {"probabilities": ("float32", (-1, "C"))}),
    "cnn": ({"image": ("uint8", (-1, "H", "W", "K"))}, {"probabilities": ("float32", (-1, "C"))}),
    "finetune": ({"image": ("uint8", (-1, "H", "W", 3))}, {"probabilities": ("float32", (-1, "C"))}),
    "lstm": ({"window": ("float32", (-1, "T", "F"))}, {"forecast": ("float32", (-1, "H"))}),
    "transformer": ({"tokens": ("int32", (-1, -1))}, {"probabilities": ("float32", (-1, "C"))}),
    "autoencoder": (
        {"features": ("float32", (-1, "F"))},
        {"reconstruction": ("float32", (-1, "F")), "score": ("float32", (-1,)), "is_anomaly": ("bool", (-1,))},
    ),
    "vgg16": ({"image": ("uint8", (-1, 224, 224, 3))}, {"features": ("float32", (-1, 512))}),
    "text_to_image": (
        {"tokens": ("int32", (-1, -1)), "noise": ("float32", (-1, 64)), "temperature": ("float32", (-1,))},
        {"image": ("uint8", (-1, 8, 8))},
    ),
    "rbm": ({"features": ("float32", (-1, "F"))}, {"hidden": ("float32", (-1, "H"))}),
}
"""The README's table: a letter is an axis that is fixed by the data, equal wherever the letter stands."""

CHOICES = {
    "finetune": {"weights": "random", "backbone": "mobilenetv3-small"},
    "vgg16": {"weights": "random"},
}
"""What a family cannot do without and has no default that works offline."""


@pytest.fixture(params=FAMILIES)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return find(request.param)


def test_the_families_are_found() -> None:
    assert set(SIGNATURES) <= set(FAMILIES)


def test_a_family_is_named_after_its_file(pipeline: Pipeline) -> None:
    assert type(pipeline).__module__ == f"training.pipelines.{pipeline.family}"


def test_a_family_says_what_it_is_for(pipeline: Pipeline) -> None:
    assert pipeline.task in TASKS
    assert len(pipeline.summary) > 20


def test_every_option_has_help_and_a_default_within_its_bounds(pipeline: Pipeline) -> None:
    assert issubclass(pipeline.options, CommonOptions)
    check(pipeline.options())
    undocumented = [option.name for option in options_of(pipeline.options) if not option.help.endswith(".")]
    assert undocumented == []


@pytest.mark.parametrize("family", sorted(SIGNATURES))
def test_the_untrained_serving_model_keeps_to_the_signature_of_its_family(family: str) -> None:
    pipeline = find(family)
    options = pipeline.options(**CHOICES.get(family, {}))
    split = pipeline.split(pipeline.load(Source(), options).data, options)
    processor = pipeline.fit_processor(split.train, options)
    parts = (split.train, split.validation, split.test)
    train, validation, test = (pipeline.examples(part, processor, options) for part in parts)

    serving = pipeline.serving_model(pipeline.build(train, processor, options), train, validation, processor, options)
    inputs = {name: values[:ROWS] for name, values in test.serving_inputs.items()}
    outputs = serving.model(inputs)

    axes: dict[str, int] = {}
    expected_inputs, expected_outputs = SIGNATURES[family]
    assert_specs(serving.signature.inputs, expected_inputs, axes)
    assert_specs(serving.signature.outputs, expected_outputs, axes)
    assert_fits(inputs, serving.signature.inputs)
    assert_fits({name: np.asarray(value) for name, value in outputs.items()}, serving.signature.outputs)
    assert {len(value) for value in (*inputs.values(), *outputs.values())} == {min(len(test), ROWS)}


def test_a_file_in_the_folder_is_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zebra.py").write_text(
        "from training.pipelines.regressor import Regressor\n\n\n"
        "class Zebra(Regressor):\n    family = 'zebra'\n\n\nPIPELINE = Zebra()\n"
    )
    monkeypatch.setattr(training.pipelines, "__path__", [*training.pipelines.__path__, str(tmp_path)])
    pipelines.cache_clear()
    try:
        assert find("zebra").family == "zebra"
    finally:
        pipelines.cache_clear()


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match="regressor"):
        find("regresor")


def assert_specs(specs: tuple[TensorSpec, ...], expected: dict[str, tuple[str, Shape]], axes: dict[str, int]) -> None:
    assert [spec.name for spec in specs] == list(expected)
    for spec in specs:
        dtype, shape = expected[spec.name]
        assert spec.dtype.name == dtype
        assert spec.shape is not None
        assert len(spec.shape) == len(shape)
        for length, axis in zip(spec.shape, shape, strict=True):
            if isinstance(axis, str):
                assert length == axes.setdefault(axis, length)
                assert length != DYNAMIC
            else:
                assert length == axis


def assert_fits(arrays: dict[str, Any], specs: tuple[TensorSpec, ...]) -> None:
    assert set(arrays) == {spec.name for spec in specs}
    for spec in specs:
        assert arrays[spec.name].dtype == spec.dtype.numpy
        assert spec.accepts(arrays[spec.name].shape)
