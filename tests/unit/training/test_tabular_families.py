"""The tabular graphs on raw values: missing cells, unseen categories, units. One TensorFlow process, untrained models."""

from dataclasses import replace

import numpy as np
import pytest

from services.processing.tabular import Column
from training.datasets.tables import Table
from training.options import parse
from training.pipeline import Pipeline, ServingModel
from training.pipelines import find
from training.runner import predict

COLUMNS = (Column("size", "numeric"), Column("city", "categorical", ("Bonn", "Kiel", "Ulm")), Column("age", "numeric"))
FEATURES = np.array([[10, 0, 1], [20, 1, np.nan], [30, 2, 3], [60, 2, 8]], np.float32)


def encode(values: np.ndarray, bins: int = 0) -> np.ndarray:
    from training.layers.tabular import TabularEncoding

    return np.asarray(TabularEncoding(COLUMNS, FEATURES, bins=bins)(values))


def test_numbers_are_standardised_and_categories_one_hot() -> None:
    encoded = encode(FEATURES)
    mean, spread = FEATURES[:, 0].mean(), FEATURES[:, 0].std()
    np.testing.assert_allclose(encoded[:, 0], (FEATURES[:, 0] - mean) / spread, rtol=1e-6)
    np.testing.assert_array_equal(encoded[:, 3:], np.eye(3)[[0, 1, 2, 2]])


def test_a_missing_number_is_the_mean_and_is_marked() -> None:
    encoded = encode(FEATURES)
    assert encoded[1, 1] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(encoded[:, 2], [0, 1, 0, 0])


@pytest.mark.parametrize("code", [-1, np.nan, 7])
def test_an_unseen_category_is_no_category(code: float) -> None:
    encoded = encode(np.array([[10, code, 1]], np.float32))
    np.testing.assert_array_equal(encoded[0, 3:], [0, 0, 0])


def test_a_constant_column_does_not_divide_by_zero() -> None:
    from training.layers.tabular import TabularEncoding

    constant = np.full((5, 1), 7, np.float32)
    assert np.asarray(TabularEncoding(COLUMNS[:1], constant, bins=8)(constant)).tolist() == [[0]] * 5


def test_bins_rise_from_zero_to_one_across_each_interval() -> None:
    from training.layers.tabular import TabularEncoding

    rows = np.linspace(0, 100, 101, dtype=np.float32)[:, None]
    encoding = TabularEncoding(COLUMNS[:1], rows, bins=4)
    codes = np.asarray(encoding(np.array([[-5], [0], [25], [37.5], [100], [900]], np.float32)))[:, 1:]
    np.testing.assert_allclose(codes, [[0] * 4, [0] * 4, [1, 0, 0, 0], [1, 0.5, 0, 0], [1] * 4, [1] * 4], atol=1e-6)


def test_decoding_undoes_the_encoding() -> None:
    from training.layers.tabular import TabularDecoding, TabularEncoding

    encoding = TabularEncoding(COLUMNS, FEATURES)
    decoded = np.asarray(TabularDecoding(encoding)(encoding(FEATURES)))
    filled = FEATURES.copy()
    filled[1, 2] = np.nanmean(FEATURES[:, 2])
    np.testing.assert_allclose(decoded, filled, rtol=1e-5)


def test_the_regressor_answers_in_target_units() -> None:
    table = mixed_table()
    target = 5000 + 10 * table.columns["size"]
    serving, inputs = untrained("regressor", replace(table, target=target), "units=4")
    prediction = predict(serving, inputs)["prediction"]
    assert prediction.dtype == np.float32
    assert np.all(np.abs(prediction - target.mean()) < 10 * target.std())


def test_the_classifiers_probabilities_sum_to_one_whatever_is_missing() -> None:
    labelled = replace(mixed_table(), target=np.arange(40) % 2, labels=("no", "yes"))
    serving, inputs = untrained("classifier", labelled, "units=4")
    inputs["features"][0] = np.nan
    probabilities = predict(serving, inputs)["probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert serving.labels == ("no", "yes")


def test_balanced_classes_weigh_the_same_in_sum() -> None:
    pipeline = find("classifier")
    options = parse(pipeline.options, ["class_weights=balanced"])
    labelled = replace(mixed_table(), target=(np.arange(40) % 4 == 0).astype(np.int64), labels=("no", "yes"))
    examples = pipeline.examples(labelled, pipeline.fit_processor(labelled, options), options)
    assert examples.weights is not None
    sums = [examples.weights[examples.targets == index].sum() for index in (0, 1)]
    assert sums == pytest.approx([20, 20])


def mixed_table(rows: int = 40) -> Table:
    random = np.random.default_rng(0)
    size = random.uniform(10, 90, rows)
    age = np.where(np.arange(rows) % 7 == 0, np.nan, random.uniform(0, 9, rows))
    city = np.array(["Bonn", "Kiel", "Ulm", None] * (rows // 4), dtype=object)
    return Table({"size": size, "age": age, "city": city})


def untrained(family: str, table: Table, *settings: str) -> tuple[ServingModel, dict[str, np.ndarray]]:
    """The serving model of random weights, and the inputs it was built from as train and validation part."""
    pipeline: Pipeline = find(family)
    options = parse(pipeline.options, settings)
    processor = pipeline.fit_processor(table, options)
    examples = pipeline.examples(table, processor, options)
    model = pipeline.build(examples, processor, options)
    return pipeline.serving_model(model, examples, examples, processor, options), examples.inputs
