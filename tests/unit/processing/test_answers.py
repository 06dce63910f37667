"""Outputs to answers, task by task."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from services.errors import FailedPrecondition, Internal, InvalidArgument
from services.manifest import TASKS
from services.processing.answers import decode, png


def f32(*values: object) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("values", [f32([0.1], [2]), f32(0.1, 2)])
def test_regression_gives_a_number_per_row(values: np.ndarray) -> None:
    assert decode("regression", {"prediction": values}) == [{"prediction": 0.1}, {"prediction": 2.0}]


@pytest.mark.parametrize("task", ["classification", "image_classification", "text_classification"])
def test_classes_are_named_and_ranked(task: str) -> None:
    answers = decode(task, {"probabilities": f32([0.2, 0.7, 0.1], [0.6, 0.3, 0.1])}, ["ant", "bee", "cat"])
    assert answers == [
        {"label": "bee", "probabilities": {"bee": 0.7, "ant": 0.2, "cat": 0.1}},
        {"label": "ant", "probabilities": {"ant": 0.6, "bee": 0.3, "cat": 0.1}},
    ]
    assert list(answers[0]["probabilities"]) == ["bee", "ant", "cat"]


def test_classes_without_labels_go_by_index() -> None:
    assert decode("classification", {"probabilities": f32([0.2, 0.8])})[0]["label"] == "1"


def test_top_keeps_the_most_probable() -> None:
    answer = decode("image_classification", {"probabilities": f32([0.2, 0.7, 0.1])}, ["a", "b", "c"], top=2)
    assert answer == [{"label": "b", "probabilities": {"b": 0.7, "a": 0.2}}]


@pytest.mark.parametrize("values", [f32([0.25]), f32(0.25)])
def test_one_probability_and_two_labels_are_a_binary_classifier(values: np.ndarray) -> None:
    answer = decode("classification", {"probabilities": values}, ["ham", "spam"])
    assert answer == [{"label": "ham", "probabilities": {"ham": 0.75, "spam": 0.25}}]


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match=r"expected shape \[rows, 2\]. The model gave \[1, 3\]"):
        decode("classification", {"probabilities": f32([0.2, 0.7, 0.1])}, ["a", "b"])


def test_forecasts_of_one_column_are_lists() -> None:
    assert decode("forecasting", {"forecast": f32([1, 2])}, columns=["load"]) == [{"forecast": [1.0, 2.0]}]
    assert decode("forecasting", {"forecast": f32([[1], [2]])}) == [{"forecast": [1.0, 2.0]}]


def test_forecasts_of_several_columns_go_by_name() -> None:
    values = {"forecast": f32([[1, 10], [2, 20]])}
    assert decode("forecasting", values, columns=["a", "b"]) == [{"forecast": {"a": [1.0, 2.0], "b": [10.0, 20.0]}}]
    assert list(decode("forecasting", values)[0]["forecast"]) == ["0", "1"]


def test_anomalies_come_with_score_and_reconstruction_by_column() -> None:
    outputs = {"score": f32(0.5), "is_anomaly": np.array([True]), "reconstruction": f32([1, 2])}
    assert decode("anomaly_detection", outputs, columns=["x", "y"]) == [
        {"score": 0.5, "is_anomaly": True, "reconstruction": {"x": 1.0, "y": 2.0}}
    ]
    del outputs["reconstruction"]
    assert decode("anomaly_detection", outputs) == [{"score": 0.5, "is_anomaly": True}]


def test_features_are_lists() -> None:
    assert decode("image_features", {"features": f32([0.1, 0.2])}) == [{"features": [0.1, 0.2]}]


def test_pictures_are_png_files_in_base64() -> None:
    drawn = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    answers = decode("text_to_image", {"image": drawn})
    read = [np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"])))) for answer in answers]
    np.testing.assert_array_equal(read, drawn)


def test_a_picture_is_enlarged_pixel_by_pixel() -> None:
    large = np.asarray(Image.open(io.BytesIO(png(np.array([[0, 255]], np.uint8), scale=2))))
    np.testing.assert_array_equal(large, [[0, 0, 255, 255]] * 2)


@pytest.mark.parametrize("values", [f32([[1.0]]), np.zeros((1, 4), np.uint8), np.zeros((1, 2, 2, 2), np.uint8)])
def test_what_is_no_picture_is_refused(values: np.ndarray) -> None:
    with pytest.raises(FailedPrecondition, match=r"image: expected uint8 \[rows, height, width\]"):
        decode("text_to_image", {"image": values})


def test_an_only_output_may_have_another_name() -> None:
    assert decode("regression", {"output_0": f32([3])}) == [{"prediction": 3.0}]


def test_outputs_that_do_not_fit_the_task_are_named() -> None:
    with pytest.raises(FailedPrecondition, match=r"Expected an output named prediction\. The model gave a, b"):
        decode("regression", {"a": f32(1), "b": f32(1)})
    with pytest.raises(FailedPrecondition, match="score and is_anomaly"):
        decode("anomaly_detection", {"score": f32(1)})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_json_has_no_word_for_is_an_error(wrong: float) -> None:
    with pytest.raises(Internal, match=r"prediction: expected finite numbers.*record 1"):
        decode("regression", {"prediction": f32([1], [wrong])})


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="Received: 'poetry'"):
        decode("poetry", {})


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_the_manifest_has_answers_for_no_rows(task: str) -> None:
    empty = np.zeros((0, 2), np.float32)
    outputs = {
        "anomaly_detection": {"score": empty[:, 0], "is_anomaly": empty[:, 0].astype(bool)},
        "text_to_image": {"image": np.zeros((0, 8, 8), np.uint8)},
    }.get(task, {"y": empty})
    assert decode(task, outputs) == []


@given(npst.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_read_back_as_the_model_gave_them(values: np.ndarray) -> None:
    answers = json.loads(json.dumps(decode("image_features", {"features": values})))
    np.testing.assert_array_equal(np.array([answer["features"] for answer in answers], np.float32), values)


@given(npst.arrays(np.float32, (2, 3), elements=st.floats(0, 1, width=32)))
def test_labels_keep_their_probabilities_after_ranking(values: np.ndarray) -> None:
    labels = ["a", "b", "c"]
    for row, answer in zip(values, decode("classification", {"probabilities": values}, labels), strict=True):
        assert answer["label"] == labels[int(np.argmax(row))]
        assert [np.float32(answer["probabilities"][label]) for label in labels] == row.tolist()
