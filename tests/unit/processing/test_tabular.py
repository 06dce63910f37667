"""Rows of a table: what a cell may hold, what is refused and with which words, and that a saved processor is the same one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing import load_processor
from services.processing.tabular import COLUMNS_FILE, Column, TabularProcessor

PROCESSOR = TabularProcessor.fit({"age": [31, 4.5], "city": ["Ulm", "Bonn"], "member": [True, False]})


def encode(*records: object) -> list[list[float]]:
    return PROCESSOR.encode(list(records))["features"].tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def test_kinds_come_from_the_training_values() -> None:
    assert PROCESSOR.columns == (
        Column("age", "numeric"),
        Column("city", "categorical", ("Bonn", "Ulm")),
        Column("member", "numeric"),
    )


def test_dicts_and_rows_encode_alike() -> None:
    assert encode({"member": True, "city": "Ulm", "age": 2}, [2, "Ulm", True], (2, "Ulm", 1)) == [[2.0, 1.0, 1.0]] * 3


def test_features_are_float32_and_an_empty_batch_keeps_the_width() -> None:
    features = PROCESSOR.encode([])["features"]
    assert (features.dtype, features.shape) == (np.float32, (0, 3))


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan"), "", "  "])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_missing_cells_are_nan_in_both_kinds(nothing: object, column: int) -> None:
    row: list[object] = [1, "Ulm", 0]
    row[column] = nothing
    assert np.isnan(encode(row)[0]).tolist() == [i == column for i in range(3)]


def test_unseen_category_is_minus_one_and_spelling_counts() -> None:
    assert [row[1] for row in encode([1, "ulm", 0], [1, "Köln", 0], [1, "Ulm ", 0])] == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("code", "text"),
    [(0.0, "Bonn"), (0.4, "Bonn"), (0.9999, "Ulm"), (1.4, "Ulm"), (1.6, None), (-0.6, None), (np.nan, None)],
)
def test_the_nearest_code_is_the_category(code: float, text: str | None) -> None:
    (record,) = PROCESSOR.decode(np.array([[2.5, code, 1]], np.float32))
    assert record == {"age": 2.5, "city": text, "member": 1.0}


@pytest.mark.parametrize(("text", "value"), [("3", 3.0), (" -1.5e2 ", -150.0), (".5", 0.5), ("+7.", 7.0)])
def test_plain_decimal_texts_are_numbers(text: str, value: float) -> None:
    assert encode([text, "Ulm", 0])[0][0] == value


@pytest.mark.parametrize(
    "wrong",
    [
        "1,5",
        "1_000",
        "0x10",
        "nan",
        "inf",
        "٣",
        "many",
        float("inf"),
        -np.inf,
        1e39,
        "1e39",
        10**400,
        [1],
        {"a": 1},
        b"1",
    ],
)
def test_what_is_no_finite_number_is_refused_with_record_and_column(wrong: object) -> None:
    with pytest.raises(DataError, match=r"record 1, column 'age': expected a (finite )?number.*Received: "):
        encode([1, "Ulm", 0], [wrong, "Ulm", 0])


@pytest.mark.parametrize("wrong", [3, True, 2.5, ["Ulm"], b"Ulm"])
def test_a_category_must_be_a_text(wrong: object) -> None:
    with pytest.raises(DataError, match="record 0, column 'city': expected a text"):
        encode([1, wrong, 0])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"age": 1, "city": "Ulm"}, "missing 'member'"),
        ({"age": 1, "city": "Ulm", "member": 0, "zip": 1}, "unknown 'zip'"),
        ({"age": 1, "City": "Ulm", "member": 0}, "missing 'city'; unknown 'City'"),
        ([1, "Ulm"], r"expected 3 values \('age', 'city', 'member'\). Received: 2"),
        ("Ulm", "expected an object by column name or a list of 3 values. Received: 'Ulm'"),
        (None, "Received: None"),
    ],
)
def test_a_record_of_another_form_says_which_and_how(record: object, message: str) -> None:
    with pytest.raises(DataError, match=f"record 1: .*{message}"):
        encode([1, "Ulm", 0], record)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(DataError) as caught:
        encode(["x" * 100_000, "Ulm", 0])
    assert len(str(caught.value)) < 200


def test_whole_arrays_and_pandas_columns_encode_as_lists_do() -> None:
    table = {"age": [1.0, None, 3.0], "city": ["Ulm", "Bonn", None], "member": [True, False, True]}
    frame = pd.DataFrame(table)
    as_lists = PROCESSOR.encode_columns(table)["features"]
    np.testing.assert_array_equal(PROCESSOR.encode_columns({name: frame[name] for name in frame})["features"], as_lists)
    assert TabularProcessor.fit({name: frame[name] for name in frame}).names == PROCESSOR.names


def test_a_matrix_is_taken_column_by_column() -> None:
    processor = TabularProcessor.fit({"a": [1], "b": [2]})
    matrix = np.array([[1, 2], [3, 4]])
    assert processor.encode(matrix)["features"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(DataError, match="record 1, column 'b': expected a finite number"):
        processor.encode(np.array([[1, 2], [3, np.inf]]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "at least one input column"),
        ({0: [1]}, "Expected column names to be texts. Received: 0"),
        ({"a": [], "b": []}, "column 'a': expected values"),
        ({"a": [1], "b": [1, 2]}, "column 'b': expected 1 values as in 'a'. Received: 2"),
        ({"a": [None, float("nan")]}, "column 'a': expected values. Received: 2 missing"),
        ({"a": [1, "2"]}, "record 1, column 'a': expected a number as in the rows before"),
        ({"a": ["x", 2]}, "record 1, column 'a': expected a text as in the rows before"),
        ({"a": [1, np.inf]}, "record 1, column 'a': expected a finite number"),
        ({"a": [str(i) for i in range(1001)]}, "column 'a': expected at most 1000 different texts. Received: 1001"),
    ],
)
def test_training_data_that_cannot_be_learnt_from(table: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TabularProcessor.fit(table)


_names = st.text(min_size=1, max_size=8)
_cells = st.one_of(
    st.lists(st.one_of(st.none(), st.booleans(), st.floats(width=32, allow_infinity=False)), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=3, max_size=3),
)


@given(st.dictionaries(_names, _cells, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_loaded_processor_encodes_as_the_saved_one(tmp_path: Path, table: dict[str, list[object]]) -> None:
    try:
        processor = TabularProcessor.fit(table)
    except DataError:
        return
    loaded = load_processor(tmp_path, processor.save(tmp_path))
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    assert loaded == processor
    np.testing.assert_array_equal(loaded.encode(records)["features"], processor.encode_columns(table)["features"])


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "{}",
        "[]",
        "[1]",
        '[{"name": "a", "kind": "numeric"}]',
        '[{"name": 1, "kind": "numeric", "categories": []}]',
        '[{"name": "a", "kind": "date", "categories": []}]',
        '[{"name": "a", "kind": "numeric", "categories": ["x"]}]',
        '[{"name": "a", "kind": "categorical", "categories": []}]',
        '[{"name": "a", "kind": "categorical", "categories": ["x", "x"]}]',
        '[{"name": "a", "kind": "categorical", "categories": [1]}]',
        json.dumps([{"name": "a", "kind": "numeric", "categories": []}] * 2),
    ],
)
def test_a_malformed_asset_is_a_manifest_error(tmp_path: Path, content: str) -> None:
    spec = PROCESSOR.save(tmp_path)
    (tmp_path / COLUMNS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=COLUMNS_FILE):
        load_processor(tmp_path, spec)


def test_a_missing_asset_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="FileNotFoundError"):
        load_processor(tmp_path, ProcessorSpec("tabular", files=(COLUMNS_FILE,)))
    with pytest.raises(ManifestError, match=r"expected assets/columns\.json\. Received: none"):
        load_processor(tmp_path, ProcessorSpec("tabular"))
