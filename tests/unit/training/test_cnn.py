"""The image classifier: its options, its graph and the figure it reaches on real digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.errors import DataError, InvalidArgument
from services.processing.image import ImageProcessor
from training.environment import import_keras
from training.options import parse
from training.pipeline import Examples, ServingModel, Source
from training.pipelines.cnn import PIPELINE, Options
from training.runner import predict

RANDOM = np.random.default_rng(0)


def options(*settings: str) -> Options:
    return parse(Options, settings)


def built(chosen: Options, shape: tuple[int, int, int] = (12, 10, 1)) -> tuple[ServingModel, Examples]:
    import_keras(chosen.seed, deterministic=False)
    images = RANDOM.integers(0, 256, (8, *shape), np.uint8)
    rows = Examples({"image": images}, np.arange(8) % 3, labels=("a", "b", "c"))
    processor = ImageProcessor.fit(*shape)
    model = PIPELINE.build(rows, processor, chosen)
    return PIPELINE.serving_model(model, rows, rows, processor, chosen), rows


@pytest.mark.parametrize(
    ("settings", "filters"),
    [((), (16, 32)), (("filters=8",), (8,)), (("blocks=4",), (16, 32, 64, 128)), (("blocks=1",), (16,))],
)
def test_blocks_beyond_the_given_filters_double_the_last(settings: tuple[str, ...], filters: tuple[int, ...]) -> None:
    assert options(*settings).filters_by_block == filters


def test_more_blocks_than_the_picture_has_halves_are_refused() -> None:
    data = PIPELINE.load(Source(), options()).data
    with pytest.raises(InvalidArgument, match=r"at most 3 blocks for pictures of 8 x 8 pixels.*blocks=4"):
        PIPELINE.fit_processor(data, options("blocks=4"))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("pooling=average", "batch_norm=yes", "dropout=0", "augment=no"),
        ("filters=4,8,16", "kernel=5", "convolutions=2", "dense=7"),
    ],
)
def test_every_architecture_answers_probabilities_of_raw_bytes(settings: tuple[str, ...]) -> None:
    serving, rows = built(options(*settings))
    probabilities = predict(serving, rows.inputs)["probabilities"]
    assert probabilities.shape == (8, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_augmentation_is_no_part_of_what_is_served() -> None:
    serving, _ = built(options())
    names = [type(layer).__name__ for layer in serving.model.layers]
    assert names == ["InputLayer", "Rescaling", "Sequential"]


def test_size_and_colours_come_from_the_pictures(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (300, 150)).save(tmp_path / name / f"{index}.jpg")
    data = PIPELINE.load(Source(tmp_path), options()).data
    assert PIPELINE.fit_processor(data, options()).encode(data.images)["image"].shape == (8, 64, 128, 3)
    grey = options("channels=grey", "height=20", "width=30")
    assert PIPELINE.fit_processor(data, grey).encode(data.images)["image"].shape == (8, 20, 30, 1)


def test_a_picture_cut_short_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        picture = Image.fromarray(RANDOM.integers(0, 256, (60, 60, 3), np.uint8))
        for index in range(3):
            picture.save(tmp_path / name / f"{index}.png")
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])
    data = PIPELINE.load(Source(tmp_path), options()).data
    with pytest.raises(DataError, match=r"dog/half\.png: expected a whole image file"):
        PIPELINE.examples(data, PIPELINE.fit_processor(data, options()), options())


def test_equal_seeds_train_equal_models() -> None:
    chosen = options("epochs=1", "batch_size=4")
    images = np.arange(640, dtype=np.uint8).reshape(10, 8, 8, 1)
    rows = Examples({"image": images}, np.arange(10) % 2, labels=("a", "b"))
    processor = ImageProcessor.fit(8, 8, 1)
    answers = []
    for _ in range(2):
        import_keras(chosen.seed, deterministic=False)
        model = PIPELINE.build(rows, processor, chosen)
        PIPELINE.fit(model, rows, rows, chosen, [])
        serving = PIPELINE.serving_model(model, rows, rows, processor, chosen)
        answers.append(predict(serving, rows.inputs)["probabilities"])
    np.testing.assert_array_equal(*answers)


def test_real_digits_are_told_apart_after_a_few_epochs(fitted: Callable[..., Any], real_data: Path) -> None:
    chosen = options("epochs=5")
    run = fitted(PIPELINE, chosen, Source(real_data / "t10k-images-idx3-ubyte.gz"))
    outputs = predict(run.serving, run.test.inputs)
    accuracy = PIPELINE.evaluate(outputs, run.test, chosen)["accuracy"]
    assert accuracy > 0.96
    assert accuracy > PIPELINE.baseline(run.train, run.test, chosen).metrics["accuracy"]
    assert [plot.title for plot in PIPELINE.figures(outputs, run.test, run.serving, chosen)] == [
        "Confusion matrix",
        "Mistakes",
    ]
