"""Table files are read as they are meant, and what does not fit is named by file, row and column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.errors import DataError
from services.manifest import sha256
from training.datasets.tables import Table, TargetKind, load_table
from training.pipeline import Source

Write = Callable[..., Path]
ROWS = [f"{i},{'red' if i % 2 else 'blue'},{i * 1.5}" for i in range(12)]

SEVENS = [f"{i},{'red' if i % 2 else 'blue'},7" for i in range(12)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def load(path: Path, target: str | None = "y", kind: TargetKind = "number", **options: tuple[str, ...]) -> Table:
    return load_table(Source(path, target), kind, **options).data


def csv(*rows: str, header: str = "a,colour,y") -> str:
    return "\n".join([header, *rows]) + "\n"


def test_numbers_and_categories_are_told_apart(write: Write) -> None:
    table = load(write(csv(*ROWS)))
    np.testing.assert_array_equal(table.columns["a"], np.arange(12.0))
    assert table.columns["colour"].tolist()[:2] == ["blue", "red"]
    np.testing.assert_array_equal(table.target, np.arange(12) * 1.5)


def test_a_bom_is_no_part_of_the_first_name(write: Write) -> None:
    assert list(load(write("\ufeff" + csv(*ROWS))).columns) == ["a", "colour"]


@pytest.mark.parametrize("mark", ["", "NA", "nan", "null", "?", " "])
def test_missing_cells_are_nan_in_numbers_and_none_in_categories(write: Write, mark: str) -> None:
    table = load(write(csv(*ROWS, f"{mark},{mark},3")))
    assert np.isnan(table.columns["a"][-1])
    assert table.columns["colour"][-1] is None


@pytest.mark.parametrize(("separator", "name"), [(";", "t.csv"), ("\t", "t.tsv"), ("|", "t.txt"), (" ", "t.txt")])
def test_the_separator_is_found_out(write: Write, separator: str, name: str) -> None:
    table = load(write(csv(*ROWS).replace(",", separator), name))
    assert table.columns["a"][3] == 3


def test_a_decimal_comma_is_read_where_the_separator_is_another(write: Write) -> None:
    table = load(write(csv(*ROWS).replace(",", ";").replace(".", ",")))
    np.testing.assert_array_equal(table.target, np.arange(12) * 1.5)


def test_quoted_cells_may_hold_separators_and_line_breaks(write: Write) -> None:
    table = load(write(csv(*ROWS, '1,"red, and\nblue",3')))
    assert table.columns["colour"][-1] == "red, and\nblue"


def test_a_quoted_name_may_hold_a_separator(write: Write) -> None:
    assert list(load(write(csv(*ROWS, header='"a; of b",colour,y'))).columns) == ["a; of b", "colour"]


def test_a_file_of_numbers_without_a_header_starts_with_the_class(write: Write) -> None:
    lines = "\n".join(f"  {1 + i % 2}.0000000e+00  {i}.5  {i}" for i in range(12))
    table = load(write(lines, "beats.txt"), None, "optional class")
    assert table.labels == ("1", "2")
    assert list(table.columns) == ["x1", "x2"]
    assert len(table) == 12


def test_the_target_may_be_given_by_index(write: Write) -> None:
    assert list(load(write(csv(*ROWS)), "-1").columns) == ["a", "colour"]


def test_class_labels_are_in_the_order_of_their_numbers(write: Write) -> None:
    table = load(write("x,y\n" + "".join(f"{i},{10 if i % 2 else 9}\n" for i in range(12))), "y", "class")
    assert table.labels == ("9", "10")
    assert table.target is not None
    assert table.target.tolist() == [0, 1] * 6


def test_named_columns_are_read_as_categories_or_left_out(write: Write) -> None:
    path = write(csv(*ROWS))
    assert load(path, categorical=("a",), drop=("colour",)).columns["a"].tolist()[:2] == ["0", "1"]
    assert list(load(path, drop=("colour",)).columns) == ["a"]


def test_parquet_holds_the_same_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    numbers: list[int | None] = [None, *range(1, 12)]
    pq.write_table(pa.table({"a": numbers, "colour": ["red", None] * 6, "y": [i * 0.5 for i in range(12)]}), path)
    table = load(path)
    assert np.isnan(table.columns["a"][0])
    assert table.columns["colour"].tolist()[:2] == ["red", None]


def test_npz_holds_features_and_target(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, x=np.arange(24).reshape(12, 2), y=np.arange(12))
    table = load(path, None)
    assert list(table.columns) == ["x1", "x2"]
    assert table.target is not None


def test_what_was_read_is_hashed(write: Write) -> None:
    path = write(csv(*ROWS))
    assert load_table(Source(path, "y"), "number").sha256 == sha256(path)


@pytest.mark.parametrize(
    ("text", "target", "kind", "message"),
    [
        ("", "y", "number", "table.csv: expected a header and rows. Found an empty file"),
        ("a,y\n", "y", "number", "table.csv: expected rows below the header"),
        (csv(*ROWS), "z", "number", "expected a target out of the columns a, colour, y. Received 'z'"),
        (csv(*ROWS), None, "number", "expected --target, one of a, colour, y. Received none"),
        (csv(*ROWS, header="a,a,y"), "y", "number", "expected each column name once. Found more than once: a"),
        (
            csv(*ROWS, header="a,,y"),
            "y",
            "number",
            "expected a name for every column in the header. Found none for column 2",
        ),
        (csv(*ROWS, header="1,2,3"), "y", "number", "expected a header with column names. Found numbers: 1, 2, 3"),
        (csv(*ROWS, "1,red"), "y", "number", "table.csv, line 14: expected 3 cells, as in the first line. Found 2"),
        (
            csv(*ROWS, "abc,red,1"),
            "y",
            "number",
            "line 14, column 'a': expected a number, as in the other rows. Found 'abc'",
        ),
        (
            csv(*ROWS, "1,red,"),
            "y",
            "number",
            "column 'y': expected a target in every row. Found none in 1 of 13 rows: line 14",
        ),
        (csv(*ROWS), "colour", "number", "line 2, column 'colour': expected a number to predict. Found 'blue'"),
        (csv(*ROWS[:5]), "y", "number", "expected at least 10 rows. Found 5"),
        (
            csv(*(f"{i},{i % 2 and 'red'},7" for i in range(12))),
            "y",
            "number",
            "column 'y': expected a target that varies. Found 7",
        ),
        (
            csv(*(f"{i},{i % 2 and 'red'},7" for i in range(12))),
            "y",
            "class",
            "expected at least two classes. Found only '7'",
        ),
        (
            csv(*ROWS, "1,green,1"),
            "colour",
            "class",
            "one each for training, validation and test. Found 'green' once (line 14), of 3 classes",
        ),
        (csv(*(f"{i},,{i}" for i in range(12))), "y", "number", "column 'colour': expected some values. Found none"),
        (csv(*(f"{i},id{i},{i}" for i in range(60))), "y", "number", "Found 60 different texts in 60 rows"),
        ("y\n" + "1\n2\n" * 6, "y", "number", "expected at least one column beside the target"),
        (csv(*ROWS, '1,"red,1'), "y", "number", "expected well-formed quoting"),
    ],
)
def test_a_misfit_is_named(write: Write, text: str, target: str | None, kind: TargetKind, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(write(text), target, kind)
    assert message in str(caught.value)
    assert "table.csv" in str(caught.value)


CONSTANT = csv(*(f"{i},7,red,{i}" for i in range(12)), header="a,b,colour,y")


def test_all_constant_columns_are_refused_at_once(write: Write) -> None:
    with pytest.raises(DataError, match=r"column 'b': expected values that vary.*2 columns.*--set drop=b,colour"):
        load(write(CONSTANT))


def test_constant_columns_are_left_out_where_asked_for(write: Write) -> None:
    assert list(load(write(CONSTANT), drop=("b", "colour")).columns) == ["a"]
    table = load_table(Source(write(CONSTANT), "y"), "number", constant="drop").data
    assert list(table.columns) == ["a"]


def test_a_column_of_one_value_and_holes_is_not_constant(write: Write) -> None:
    assert "colour" in load(write(csv(*(f"{i},{'red' if i else ''},{i}" for i in range(12))))).columns


def test_a_quoted_line_break_moves_the_lines_that_are_named(write: Write) -> None:
    rows = [*ROWS, '1,"red, and\nblue",3', "", "1,blue,soon"]
    with pytest.raises(DataError, match=r"line 17, column 'y'.*'soon'"):
        load(write(csv(*rows)))


def test_rare_anomalies_are_no_reason_to_refuse_a_table(write: Write) -> None:
    table = load(write(csv(*ROWS, "1,green,1")), "colour", "optional class")
    assert table.labels == ("blue", "green", "red")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"t\.csv: expected UTF-8 text"):
        load(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.npz"])
def test_a_file_that_is_not_what_its_name_says_is_named(write: Write, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: expected"):
        load(write("no such format", name))


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Found nothing"):
        load(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="Found a folder"):
        load(tmp_path)


def test_the_concrete_table_is_read(real_data: Path) -> None:
    table = load(real_data / "concrete_data.csv", "Strength")
    assert len(table) == 1030
    assert next(iter(table.columns)) == "Cement"
    assert all(column.dtype == np.float64 for column in table.columns.values())


def test_the_heartbeats_are_read(real_data: Path) -> None:
    table = load(real_data / "ecg5000_train.txt", None, "optional class")
    assert len(table) == 500
    assert len(table.columns) == 140
    assert table.labels == ("1", "2", "3", "4", "5")
