"""The autoencoder: which rows it learns from, what it damages, where its threshold lies, and what it serves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from services.errors import DataError, InvalidArgument
from services.processing.tabular import Column
from training.anomaly.options import AutoencoderOptions
from training.anomaly.restoration import damaged
from training.anomaly.rows import Rows, mark, split_rows
from training.anomaly.tables import TABLES
from training.anomaly.thresholds import choose_threshold
from training.datasets.images import Images
from training.datasets.tables import Table
from training.options import parse
from training.pipeline import ServingModel, Source, Trained
from training.pipelines import find
from training.runner import Job, predict, train

# Keras turns TensorFlow variables into arrays by a protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCORES = np.array([1, 2, 4, 16, 3, 64], np.float32)
ODD = np.array([False, False, False, True, False, True])


@pytest.mark.parametrize(
    ("settings", "threshold"),
    [
        (["quantile=0.5"], 2.5),
        (["quantile=0.5", "learn=all"], 3.5),
        (["threshold=share", "share=0.4"], 4.0),
        (["threshold=labelled"], 8.0),
        (["threshold=labelled", "aim=recall", "recall=0.5"], 32.0),
        (["threshold=labelled", "aim=recall", "recall=1"], 8.0),
    ],
)
def test_the_threshold_follows_its_rule(settings: list[str], threshold: float) -> None:
    chosen = choose_threshold(SCORES, ODD, parse(AutoencoderOptions, settings))
    assert chosen.value == pytest.approx(threshold)


@pytest.mark.parametrize(("miss_cost", "flagged"), [(0.4, 0), (1.5, 2), (3, 5)])
def test_dear_misses_lower_the_threshold(miss_cost: float, flagged: int) -> None:
    scores = np.array([9, 8, 7, 6, 5, 1], np.float32)
    odd = np.array([False, True, False, False, True, False])
    options = parse(AutoencoderOptions, ["threshold=labelled", "aim=cost", f"miss_cost={miss_cost}"])
    assert (scores > np.float32(choose_threshold(scores, odd, options).value)).sum() == flagged


def test_equal_scores_stay_on_one_side_of_a_labelled_threshold() -> None:
    odd = np.array([True, False, True, False])
    options = parse(AutoencoderOptions, ["threshold=labelled"])
    chosen = choose_threshold(np.array([2, 2, 2, 1], np.float32), odd, options)
    assert 1 <= chosen.value < 2


@pytest.mark.parametrize(("odd", "complaint"), [(None, "Received: none"), (np.zeros(6, bool), "6 normal, 0 anomalous")])
def test_a_labelled_threshold_needs_both_kinds(odd: np.ndarray | None, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        choose_threshold(SCORES, odd, parse(AutoencoderOptions, ["threshold=labelled"]))


@pytest.mark.parametrize("settings", [["threshold=share"], ["share=0.1"], ["filters="], ["masking=1"]])
def test_options_that_contradict_each_other_are_refused(settings: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="Option"):
        parse(AutoencoderOptions, settings)


def table(rows: int = 200) -> Table:
    random = np.random.default_rng(0)
    columns = {
        "size": random.uniform(10, 90, rows),
        "age": np.where(np.arange(rows) % 7 == 0, np.nan, random.uniform(0, 9, rows)),
        "city": np.array(["Bonn", "Kiel", "Ulm", None] * (rows // 4), dtype=object),
    }
    return Table(columns, np.arange(rows) % 4, ("bad", "fair", "good", "odd"))


def test_normal_rows_are_learnt_from_and_the_other_parts_keep_both_kinds() -> None:
    options = parse(AutoencoderOptions, ["normal=good,fair"])
    split = split_rows(mark("t", table(), options), options)
    assert split.train.anomalous is not None
    assert not split.train.anomalous.any()
    assert split.train.aside is not None
    assert split.train.aside.anomalous is not None
    assert split.train.aside.anomalous.all()
    for part in (split.validation, split.test):
        assert part.anomalous is not None
        assert part.anomalous.mean() == pytest.approx(0.5, abs=0.05)


def test_all_rows_are_learnt_from_where_that_is_asked_for() -> None:
    options = parse(AutoencoderOptions, ["normal=good", "learn=all"])
    train = split_rows(mark("t", table(), options), options).train
    assert train.aside is None
    assert train.anomalous is not None
    assert train.anomalous.any()


def test_a_labelled_threshold_without_labels_is_refused_before_training() -> None:
    options = parse(AutoencoderOptions, ["threshold=labelled"])
    unlabelled = Rows(Table(table().columns))
    with pytest.raises(DataError, match="Expected labelled rows"):
        split_rows(unlabelled, options)


def test_an_unknown_normal_class_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"bad, fair, good, odd\. Received: best"):
        mark("t", table(), parse(AutoencoderOptions, ["normal=good,best"]))


def test_pictures_are_all_normal_unless_their_classes_are_named() -> None:
    pictures = Images(np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2, ("flaw", "good"))
    assert mark("p", pictures, AutoencoderOptions()).anomalous is None
    marked = mark("p", pictures, AutoencoderOptions(normal=("good",)))
    assert marked.anomalous is not None
    assert marked.anomalous.tolist() == [True, False, True, False]


COLUMNS = (Column("size", "numeric"), Column("city", "categorical", ("Bonn", "Kiel")))


def test_cells_are_damaged_in_units_of_their_column() -> None:
    rows = np.column_stack([np.tile([0, 200], 500), np.tile([0, 1], 500)]).astype(np.float32)
    encoding = TABLES.encoding(rows, COLUMNS)
    noisy = damaged(TABLES, encoding, rows, AutoencoderOptions(noise=0.5, masking=0.25))
    gone = np.isnan(noisy[:, 0])
    assert gone.mean() == pytest.approx(0.25, abs=0.05)
    assert (noisy[:, 1] == -1).mean() == pytest.approx(0.25, abs=0.05)
    assert (noisy - rows)[~gone, 0].std() == pytest.approx(50, rel=0.1)


def test_pixels_are_damaged_within_their_range() -> None:
    from training.layers.corruption import PixelCorruption

    grey = np.full((8, 20, 20, 3), 100, np.uint8)
    damage = PixelCorruption(noise=0.0, masking=0.0, salt_and_pepper=0.5, seed=0)
    pixels = np.asarray(damage(grey, training=True))
    shares = {value: float((pixels == value).all(axis=-1).mean()) for value in (0, 100, 255)}
    assert shares == pytest.approx({0: 0.25, 100: 0.5, 255: 0.25}, abs=0.04)
    np.testing.assert_array_equal(damage(grey, training=False), grey)
    noisy = np.asarray(PixelCorruption(noise=1.0, masking=0.0, salt_and_pepper=0.0, seed=0)(grey, training=True))
    assert (noisy.min(), noisy.max()) == (0, 255)


def untrained(content: Table | Images, *settings: str) -> tuple[ServingModel, dict[str, np.ndarray]]:
    """The serving model of random weights, and the inputs it was built from as train and validation part."""
    pipeline: Any = find("autoencoder")
    options = parse(pipeline.options, settings)
    rows = mark("t", content, options)
    processor = pipeline.fit_processor(rows, options)
    examples = pipeline.examples(rows, processor, options)
    model = pipeline.build(examples, processor, options)
    return pipeline.serving_model(model, examples, examples, processor, options), examples.inputs


def test_the_served_graph_answers_without_noise() -> None:
    serving, inputs = untrained(table(40), "units=8", "noise=5", "masking=0.5", "normal=bad,fair,good", "quantile=0.75")
    first, second = predict(serving, inputs), predict(serving, inputs)
    np.testing.assert_array_equal(first["reconstruction"], second["reconstruction"])
    assert first["reconstruction"].shape == inputs["features"].shape
    threshold = np.float32(serving.notes["threshold"])
    np.testing.assert_array_equal(first["is_anomaly"], first["score"] > threshold)
    normal = np.arange(40) % 4 != 3
    assert first["is_anomaly"][normal].sum() == 8


def test_restoration_is_measured_where_cells_are_missing() -> None:
    pipeline: Any = find("autoencoder")
    options = parse(pipeline.options, ["units=4", "masking=0.5"])
    rows = mark("t", table(40), options)
    processor = pipeline.fit_processor(rows, options)
    examples = pipeline.examples(rows, processor, options)
    model = pipeline.build(examples, processor, options)
    serving = pipeline.serving_model(model, examples, examples, processor, options)
    metrics = pipeline.examine(Trained(model, serving, examples, examples, processor), examples, options)
    assert set(metrics) == {"restoration_error", "unrestored_error"}
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize("network", ["dense", "convolutional"])
def test_a_picture_is_rebuilt_in_its_own_size_and_range(network: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8)
    content = Images(images, np.zeros(6, np.int64), ())
    serving, inputs = untrained(content, f"network={network}", "filters=3,5", "units=6", "bottleneck=2")
    outputs = predict(serving, inputs)
    assert outputs["reconstruction"].shape == images.shape
    assert 0 <= outputs["reconstruction"].min() <= outputs["reconstruction"].max() <= 255
    again = np.square((outputs["reconstruction"] - images) / 255).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(outputs["score"], again, rtol=1e-4)


def test_a_folder_of_pictures_without_classes_becomes_a_published_model_with_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(24):
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{index}.png")
    pipeline: Any = find("autoencoder")
    settings = ["epochs=1", "filters=4", "bottleneck=3", "salt_and_pepper=0.1", "plain_twin=true"]
    options = parse(pipeline.options, [*settings, "threshold=share", "share=0.25", "deterministic=false"])
    job = Job(pipeline, options, Source(folder), repository=tmp_path / "models", runs=tmp_path / "runs")
    outcome = train(job, Console(quiet=True))
    assert {"restoration_error", "unrestored_error", "plain_restoration_error"} <= set(outcome.metrics)
    assert "restoration_error" in outcome.baseline.metrics
    manifest = json.loads((outcome.exported.path / "manifest.json").read_bytes())
    assert manifest["notes"]["threshold_rule"] == "0.25 of 3 validation rows lie above"
    assert manifest["notes"]["threshold"] > 0
    assert manifest["signatures"]["encode"]["outputs"] == [{"name": "embedding", "dtype": "float32", "shape": [-1, 3]}]
    report = outcome.run.report.read_text()
    for heading in ("Map of the codes", "Restored pictures", "Scores", "threshold rule"):
        assert heading in report


@pytest.mark.parametrize("setting", ["salt_and_pepper=0.1", "network=convolutional"])
def test_what_only_pictures_have_is_refused_for_a_table(setting: str) -> None:
    pipeline: Any = find("autoencoder")
    with pytest.raises(InvalidArgument, match="expected pictures"):
        pipeline.load(Source(), parse(pipeline.options, [setting]))
