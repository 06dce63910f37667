"""Windows of a series: four forms of one window, and no holes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing import load_processor
from services.processing.series import SeriesProcessor

ONE = SeriesProcessor.fit(["temperature"], window=3)
TWO = SeriesProcessor.fit(["load", "wind"], window=2)


def test_every_form_of_a_window_encodes_alike() -> None:
    forms: list[object] = [
        [[1, 10], [2, 20]],
        [{"load": 1, "wind": 10}, {"wind": 20, "load": 2}],
        {"wind": [10, 20], "load": [1, 2]},
        np.array([[1, 10], [2, 20]]),
        (("1", 10.0), (2, "20")),
    ]
    encoded = TWO.encode(forms)["window"]
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[[1.0, 10.0], [2.0, 20.0]]] * len(forms)


def test_one_column_may_be_plain_numbers() -> None:
    encoded = ONE.encode([[1, 2, 3], [[1], [2], [3]], np.array([1, 2, 3]), {"temperature": [1, 2, 3]}])["window"]
    assert encoded.tolist() == [[[1.0], [2.0], [3.0]]] * 4


def test_a_whole_array_is_a_batch_of_windows() -> None:
    batch = np.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(TWO.encode(batch)["window"], batch)


def test_an_empty_batch_keeps_the_shape() -> None:
    assert TWO.encode([])["window"].shape == (0, 2, 2)


@pytest.mark.parametrize("hole", [None, float("nan"), "", float("inf"), 1e39, "x", [1]])
def test_a_hole_is_refused_with_its_place(hole: object) -> None:
    message = "record 0, step 1, column 'wind': expected a "
    with pytest.raises(DataError, match=message):
        TWO.encode([[[1, 2], [3, hole]]])
    with pytest.raises(DataError, match=message):
        TWO.encode([{"load": [1, 3], "wind": [2, hole]}])


@pytest.mark.parametrize("hole", [np.nan, np.inf, 1e39])
def test_a_hole_in_an_array_is_refused_with_its_place(hole: float) -> None:
    with pytest.raises(DataError, match="record 1, step 1, column 'wind'"):
        TWO.encode([np.ones((2, 2)), np.array([[1, 2], [3, hole]])])


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ([[1, 2]], "expected 2 steps, oldest first. Received: 1"),
        ([[1, 2]] * 3, "Received: 3"),
        ([1, 2], r"step 0: expected 2 values \(load, wind\). Received: 1"),
        ([[1, 2], [3]], r"step 1: expected 2 values"),
        ([[1, 2], {"load": 1}], "step 1: expected the columns load, wind"),
        ({"load": [1, 2]}, "expected the columns load, wind. Received: .*load"),
        ({"load": [1, 2], "wind": 3}, "column 'wind': expected a list of 2 steps"),
        ({"load": [1, 2], "wind": [3]}, "column 'wind': expected 2 steps"),
        (np.ones((3, 2)), r"expected an array of shape \[2, 2\]. Received: \[3, 2\]"),
        ("1,2", "expected a list of 2 steps"),
        (None, "Received: None"),
    ],
)
def test_another_form_says_what_was_expected(window: object, message: str) -> None:
    with pytest.raises(DataError, match=f"record 1.*{message}"):
        TWO.encode([[[1, 2], [3, 4]], window])


@pytest.mark.parametrize(("columns", "window"), [([], 3), (["a", "a"], 3), (["a"], 0)])
def test_columns_and_window_must_make_sense(columns: list[str], window: int) -> None:
    with pytest.raises(DataError, match="Expected different column names"):
        SeriesProcessor.fit(columns, window)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True), st.integers(1, 5), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_a_loaded_processor_encodes_as_the_saved_one(
    tmp_path: Path, columns: list[str], window: int, data: st.DataObject
) -> None:
    processor = SeriesProcessor.fit(columns, window)
    step = st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=len(columns), max_size=len(columns)
    )
    record = data.draw(st.lists(step, min_size=window, max_size=window))
    loaded = load_processor(tmp_path, processor.save(tmp_path))
    assert loaded == processor
    np.testing.assert_array_equal(loaded.encode([record])["window"], processor.encode([np.array(record)])["window"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"columns": ["a"]},
        {"columns": "a", "window": 3},
        {"columns": [1], "window": 3},
        {"columns": ["a"], "window": True},
        {"columns": ["a"], "window": 0},
        {"columns": ["a"], "window": 3, "x": 1},
    ],
)
def test_malformed_options_are_a_manifest_error(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.processor\.options"):
        load_processor(tmp_path, ProcessorSpec("series", options))


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"expected one of image, prompt, series, tabular, text\. Received: 'audio'"
    ):
        load_processor(tmp_path, ProcessorSpec("audio"))
