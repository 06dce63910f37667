"""Every kind of input, on toy models whose answers can be checked by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.batch import Summary
from services.errors import FailedPrecondition, InvalidArgument, NotFound

Job = Callable[..., Summary]
Rows = Callable[[], list[dict[str, Any]]]
Errors = Callable[[], dict[str, str]]


def _jsonl(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def test_a_folder_of_pictures_is_keyed_by_path_below_it(job: Job, rows: Rows, pictures: Path) -> None:
    (pictures / "more").mkdir()
    (pictures / "9.png").rename(pictures / "more" / "9.png")
    (pictures / "notes.txt").write_text("no picture")

    summary = job("cnn", pictures)

    assert summary.rows == 10
    assert [row["key"] for row in rows()] == [*(f"{i}.png" for i in range(9)), "more/9.png"]
    assert [row["label"] for row in rows()] == ["black"] * 5 + ["white"] * 5


def test_a_glob_takes_what_it_matches(job: Job, rows: Rows, pictures: Path) -> None:
    job("cnn", f"{pictures}/[2-4].png")

    assert [row["key"] for row in rows()] == ["2.png", "3.png", "4.png"]


@pytest.mark.parametrize("hold", ["bytes", "path"])
def test_a_parquet_column_may_hold_pictures_or_their_paths(
    job: Job, rows: Rows, pictures: Path, tmp_path: Path, hold: str
) -> None:
    files = sorted(pictures.iterdir())
    column = [file.read_bytes() if hold == "bytes" else f"pictures/{file.name}" for file in files]
    table = pa.table({"id": [f"p{i}" for i in range(10)], "image": column})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=4)

    job("cnn", tmp_path / "in.parquet", key="id", batch_rows=3, shard_rows=7)

    assert [row["key"] for row in rows()] == [f"p{i}" for i in range(10)]
    assert [round(row["probabilities"][1] * 255) for row in rows()] == [i * 28 for i in range(10)]


def test_a_csv_gives_columns_by_name_whatever_else_it_has(job: Job, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('y,note,x,id\n1,"a,\n b",2,first\n\n3,,4,second\n', encoding="utf-8")

    job("regressor", tmp_path / "in.csv", key="id")

    assert rows() == [{"key": "first", "prediction": 12.0}, {"key": "second", "prediction": 34.0}]


def test_rows_without_a_key_column_are_numbered_across_files(job: Job, rows: Rows, tmp_path: Path) -> None:
    for name, x in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.csv").write_text(f"x,y\n{x},0\n{x},1\n", encoding="utf-8")

    job("regressor", f"{tmp_path}/*.csv")

    assert [(row["key"], row["prediction"]) for row in rows()] == [(0, 1.0), (1, 11.0), (2, 2.0), (3, 12.0)]


def test_shards_of_a_table_do_not_depend_on_how_it_is_cut(job: Job, rows: Rows, tmp_path: Path) -> None:
    notes = ["two\nlines", "plain", 'a ""quote""']
    lines = [f'{i},"{notes[i % 3]}",{i / 2}' for i in range(50)]
    (tmp_path / "in.csv").write_text("x,note,y\n" + "\n".join(lines), encoding="utf-8")

    job("regressor", tmp_path / "in.csv", shard_rows=7, batch_rows=4)

    assert [(row["key"], row["prediction"]) for row in rows()] == [(i, i + 10 * (i / 2)) for i in range(50)]


def test_json_lines_may_be_objects_or_rows(job: Job, rows: Rows, tmp_path: Path) -> None:
    job("regressor", _jsonl(tmp_path / "in.jsonl", {"x": 1, "y": 2, "z": 3}, {"y": 1, "x": 0}))
    assert [row["prediction"] for row in rows()] == [21.0, 10.0]

    job("regressor", _jsonl(tmp_path / "plain.jsonl", [1, 2], [0, 1]), overwrite=True)
    assert [row["prediction"] for row in rows()] == [21.0, 10.0]


def test_parquet_rows_keep_their_nulls_as_missing_cells(job: Job, rows: Rows, errors: Errors, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, None, 3.0], "y": [0, 0, 1]}), tmp_path / "in.parquet")

    job("regressor", tmp_path / "in.parquet")

    assert [row["key"] for row in rows()] == [0, 2]
    assert "NaN" in errors()["1"]


def test_texts_come_from_their_column(job: Job, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,free\n2,free entry in a draw today friend\n", encoding="utf-8")

    job("transformer", tmp_path / "in.csv", key="id")

    assert [(row["key"], row["label"]) for row in rows()] == [("1", "short"), ("2", "long")]


@pytest.mark.parametrize("column", ["prompt", "what"])
def test_prompts_come_with_temperature_and_seed_where_a_table_has_them(
    job: Job, rows: Rows, errors: Errors, tmp_path: Path, column: str
) -> None:
    (tmp_path / "in.csv").write_text(
        f"id,{column},seed,temperature\na,a bold seven,3,0.5\nb,the digit 7,3,\nc,zebra,3,1\nd,seven,x,1\n",
        encoding="utf-8",
    )

    job("text_to_image", tmp_path / "in.csv", key="id", **({} if column == "prompt" else {"column": column}))

    noise = np.random.default_rng(3).random(4, np.float32)
    drawn = [(noise * np.float32(heat) * 100 + 3).astype(np.uint8).reshape(2, 2).tolist() for heat in (0.5, 1.0)]
    assert [(row["key"], row["image"]) for row in rows()] == [("a", drawn[0]), ("b", drawn[1])]
    assert [reason.partition(":")[0] for reason in errors().values()] == ["prompt", "seed"]


def test_prompts_alone_are_drawn_at_random(job: Job, rows: Rows, tmp_path: Path) -> None:
    _jsonl(tmp_path / "in.jsonl", {"prompt": "seven"}, {"prompt": "seven"}, {"prompt": "seven", "temperature": 0})

    job("text_to_image", tmp_path / "in.jsonl")

    first, second, cold = (row["image"] for row in rows())
    assert first != second
    assert cold == [[1, 1], [1, 1]]


def test_a_series_in_steps_is_windowed_across_shards(job: Job, rows: Rows, errors: Errors, tmp_path: Path) -> None:
    cells = [3, 6, 9, 12, "warm", 18, 21, 24, 27, 30]
    (tmp_path / "in.csv").write_text("day,temperature\n" + "\n".join(f"d{i},{c}" for i, c in enumerate(cells)))

    summary = job("lstm", tmp_path / "in.csv", key="day", shard_rows=3, batch_rows=2)

    assert summary.records == len(cells) - 2
    assert [(row["key"], row["forecast"]) for row in rows()] == [
        ("d2", [6.0, 12.0]),
        ("d3", [9.0, 18.0]),
        ("d7", [21.0, 42.0]),
        ("d8", [24.0, 48.0]),
        ("d9", [27.0, 54.0]),
    ]
    assert set(errors()) == {"d4", "d5", "d6"}


def test_a_series_may_come_as_windows(job: Job, rows: Rows, tmp_path: Path) -> None:
    job("lstm", _jsonl(tmp_path / "in.jsonl", {"temperature": [1, 2, 3]}, {"temperature": [4, 5, 6]}))
    assert [row["forecast"] for row in rows()] == [[2.0, 4.0], [5.0, 10.0]]

    pq.write_table(pa.table({"window": [[1.0, 2.0, 3.0]]}), tmp_path / "in.parquet")
    job("lstm", tmp_path / "in.parquet", overwrite=True)
    assert [row["forecast"] for row in rows()] == [[2.0, 4.0]]


def test_a_model_without_a_processor_takes_its_tensors_by_name(
    job: Job, rows: Rows, errors: Errors, tmp_path: Path
) -> None:
    good = {"a": [1.5, 2, 3], "b": [1, 2, 3], "flag": [True]}
    source = _jsonl(tmp_path / "in.jsonl", good, {**good, "a": [1, 2]}, {**good, "b": [1.5, 2, 3]})

    job("multi", source)

    assert rows() == [{"key": 0, "total": [2.5, 4.0, 6.0], "count": 6, "above": [True, False, False]}]
    assert "shape [2]" in errors()["1"]
    assert "int32" in errors()["2"]


def test_strings_go_in_and_out(job: Job, rows: Rows, tmp_path: Path) -> None:
    job("string_join", _jsonl(tmp_path / "in.jsonl", {"left": "grün", "right": "kohl"}))

    assert rows() == [{"key": 0, "joined": "grünkohl"}]


def test_limit_takes_the_first_records(job: Job, rows: Rows, pictures: Path, tmp_path: Path) -> None:
    assert job("cnn", pictures, limit=3).records == 3
    (tmp_path / "in.csv").write_text("x,y\n" + "1,2\n" * 20, encoding="utf-8")
    assert job("regressor", tmp_path / "in.csv", limit=5, shard_rows=3, overwrite=True).records == 5
    assert [row["key"] for row in rows()] == [0, 1, 2, 3, 4]


def test_the_metadata_says_which_model_has_answered(job: Job, repository: Path, tmp_path: Path, pictures: Path) -> None:
    summary = job("cnn", pictures)

    for file in ("rows/part-000000.parquet", "errors.parquet"):
        metadata = pq.read_schema(tmp_path / "out" / file).metadata
        assert metadata[b"cornet.model"] == b"cnn"
        assert metadata[b"cornet.version"] == b"1"
        assert metadata[b"cornet.sha256"].decode() == summary.sha256
        assert len(metadata[b"cornet.options"]) == 64


def test_vectors_are_lists_of_fixed_size(job: Job, tmp_path: Path, pictures: Path) -> None:
    job("cnn", pictures)

    assert pq.read_schema(tmp_path / "out" / "rows/part-000000.parquet").field("probabilities").type == pa.list_(
        pa.float32(), 2
    )


@pytest.mark.parametrize(
    ("model", "name", "content", "words"),
    [
        ("regressor", "in.csv", "x,z\n1,2\n", "columns y"),
        ("regressor", "in.xls", "x", ".csv"),
        ("transformer", "in.csv", "a,b\nc,d\n", "--column"),
        ("regressor", "in.csv", "x,x\n1,2\n", "different column names"),
        ("regressor", "in.parquet", "no parquet", "Parquet"),
    ],
)
def test_an_input_that_cannot_work_is_refused_before_anything_is_written(
    job: Job, tmp_path: Path, model: str, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")

    with pytest.raises(InvalidArgument, match=words):
        job(model, tmp_path / name)
    assert not (tmp_path / "out" / "rows").exists()


def test_an_empty_or_absent_input_is_an_error(job: Job, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x,y\n", encoding="utf-8")

    with pytest.raises(NotFound, match="at least one record"):
        job("regressor", tmp_path / "in.csv")
    with pytest.raises(NotFound, match="exists"):
        job("regressor", tmp_path / "none.csv")


def test_a_model_that_does_not_count_rows_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="count rows"):
        job("not_batchable", _jsonl(tmp_path / "in.jsonl", {"x": [1, 2], "scale": 1}))
