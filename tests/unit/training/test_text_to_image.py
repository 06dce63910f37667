"""The drawing family, on bars that stand or lie: it learns what words mean, and both graphs share its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from services.errors import InvalidArgument
from training.options import parse
from training.pipeline import Source
from training.pipelines.text_to_image import PIPELINE, Options
from training.runner import predict
from training.text_image.drawings import PIXELS, SIDE, to_levels
from training.text_image.exercises import Exercises

SETTINGS = (
    *("epochs=10", "wordings=8", "batch_size=32", "learning_rate=0.01", "judge_epochs=20", "temperature=0.3"),
    *("width=16", "heads=2", "feed_forward=16", "blocks=1", "dropout=0"),
)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NPZ of 80 bright and pale bars on black, classes `lying` and `standing`."""
    images = np.zeros((80, SIDE, SIDE), np.uint8)
    for row, image in enumerate(images):
        place = (slice(1, 7), slice(3, 5)) if row % 2 else (slice(3, 5), slice(1, 7))
        image[place] = 51 + 2 * row
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    np.savez(path, images=images, labels=np.where(np.arange(80) % 2, "standing", "lying"))
    return path


@pytest.fixture(scope="module")
def run(fitted: Callable[..., Any], bars: Path) -> Any:
    return fitted(PIPELINE, parse(Options, [*SETTINGS, "deterministic=false"]), Source(bars))


def test_it_draws_what_is_asked_for(run: Any) -> None:
    options = parse(Options, SETTINGS)
    outputs = predict(run.serving, run.test.serving_inputs)
    metrics = PIPELINE.evaluate(outputs, run.test, options)
    baseline = PIPELINE.baseline(run.train, run.test, options)

    assert metrics["judge_accuracy"] == 1
    assert metrics["asked_accuracy_taught"] > 0.8
    assert metrics["asked_accuracy_new_wording"] > 0.8
    assert metrics["bold_ink_ratio"] > 1.1
    assert metrics.keys() | {"bits_per_pixel"} == baseline.metrics.keys()

    titles = [plot.title for plot in PIPELINE.figures(outputs, run.test, run.serving, options)]
    assert titles[:2] == ["Samples by class and wording", "Attention to the prompt"]


def test_the_served_graph_draws_by_the_logits_of_the_trained_one(run: Any) -> None:
    """At temperature 0 each pixel is the trained model's most probable one, given the pixels before it."""
    inputs = {name: rows[:9] for name, rows in run.test.serving_inputs.items()}
    inputs["temperature"] = np.zeros(9, np.float32)
    drawn = to_levels(predict(run.serving, inputs)["image"]).reshape(-1, PIXELS)

    words, mask = run.serving.model.get_layer("encoder")({"tokens": inputs["tokens"]})
    logits = np.asarray(run.serving.model.get_layer("draw").decoder(drawn, words, mask))

    np.testing.assert_array_equal(logits.argmax(axis=-1), drawn)


def test_any_token_and_a_prompt_of_padding_have_an_answer(run: Any) -> None:
    tokens = np.array([[0, 0], [-5, 10**6], [1, 1]], np.int32)
    rows = {"tokens": tokens, "noise": np.full((3, PIXELS), np.nan, np.float32), "temperature": np.ones(3, np.float32)}
    assert predict(run.serving, rows)["image"].shape == (3, SIDE, SIDE)


def test_the_parts_that_are_judged_learn_from_the_training_part_alone(run: Any) -> None:
    assert cast("Exercises", run.train).drawings.reference is None
    assert cast("Exercises", run.test).drawings.learnt_from() is cast("Exercises", run.train).drawings


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InvalidArgument, match=r"Expected heads to divide width\. Received: heads=3, width=64"):
        parse(Options, ["heads=3"])
