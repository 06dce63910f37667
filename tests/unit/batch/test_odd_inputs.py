"""What is found in real folders and tables: odd names, links, pipes, byte order marks, damage, and the job's own output."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.batch import Summary
from services.batch.decoding import MAX_FILE_BYTES
from services.errors import InvalidArgument, NotFound

Job = Callable[..., Summary]
Rows = Callable[[], list[dict[str, Any]]]
Errors = Callable[[], dict[str, str]]


def test_names_may_hold_any_character(job: Job, rows: Rows, pictures: Path) -> None:
    names = ["#hash.png", "100%.png", "[1].png", "new\nline.png", "q?.png", "ä b.png"]
    for index, name in enumerate(names):
        (pictures / f"{index}.png").rename(pictures / name)

    assert job("cnn", pictures).errors == 0
    assert {row["key"] for row in rows()} == {*names, "6.png", "7.png", "8.png", "9.png"}


def test_a_name_that_is_no_text_is_read_and_its_key_written_out(job: Job, rows: Rows, pictures: Path) -> None:
    (pictures / "0.png").rename(pictures / os.fsdecode(b"\xff.png"))

    assert job("cnn", pictures).errors == 0
    assert "\\udcff.png" in {row["key"] for row in rows()}


def test_a_key_that_is_no_text_is_written_out(job: Job, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,x,y\n\xff,1,1\n")

    job("regressor", tmp_path / "in.csv", key="id")

    assert [row["key"] for row in rows()] == ["\\udcff"]


@pytest.mark.parametrize("glob", ["", "/**/*.png"])
def test_links_in_circles_are_not_followed(job: Job, errors: Errors, pictures: Path, glob: str) -> None:
    (pictures / "here").symlink_to(pictures)
    (pictures / "itself.png").symlink_to(pictures / "itself.png")

    summary = job("cnn", f"{pictures}{glob}")

    assert (summary.rows, summary.errors) == (10, 1)
    assert "symbolic links" in errors()["itself.png"]


@pytest.mark.timeout(60)
def test_what_is_no_plain_file_of_a_pictures_size_is_not_read(job: Job, errors: Errors, pictures: Path) -> None:
    os.mkfifo(pictures / "pipe.png")
    (pictures / "folder.png").mkdir()
    with (pictures / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    summary = job("cnn", pictures)

    assert (summary.rows, summary.errors) == (10, 2)
    assert "a pipe or device" in errors()["pipe.png"]
    assert "bytes" in errors()["huge.png"]


def test_a_glob_that_matches_nothing_is_named(job: Job, pictures: Path) -> None:
    with pytest.raises(NotFound, match=r"\*\.gif"):
        job("cnn", f"{pictures}/*.gif")
    with pytest.raises(NotFound, match=r"none/\*\.png"):
        job("cnn", f"{pictures}/none/*.png")


@pytest.mark.parametrize("below", ["", "out"])
def test_an_output_in_the_folder_that_is_read_is_no_input(job: Job, tmp_path: Path, below: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1.0], "y": [2.0]}), folder / "in.parquet")

    assert job("regressor", folder, output=folder / below).computed == 1
    assert job("regressor", folder, output=folder / below).computed == 0
    assert job("regressor", folder, output=folder / below, overwrite=True).records == 1


@pytest.mark.parametrize("source", ["out/rows", "out/rows/part-000000.parquet"])
def test_overwrite_does_not_take_the_input_away(job: Job, tmp_path: Path, source: str) -> None:
    (tmp_path / "in.csv").write_text("x,y\n1,2\n")
    job("regressor", tmp_path / "in.csv")

    with pytest.raises(InvalidArgument, match="the output's own"):
        job("regressor", tmp_path / source, overwrite=True)
    assert (tmp_path / "out/rows/part-000000.parquet").exists()


def test_an_output_that_is_a_file_is_refused(job: Job, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("x,y\n1,2\n")

    for output in (source, source / "below"):
        with pytest.raises(InvalidArgument, match="a folder to write to"):
            job("regressor", source, output=output)


def test_a_byte_order_mark_is_no_part_of_the_first_name(job: Job, rows: Rows, tmp_path: Path) -> None:
    for name, content in (("in.csv", '"x",y\r\n1,2\r\n'), ("in.jsonl", '{"x": 1, "y": 2}\n')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")

        assert job("regressor", tmp_path / name, overwrite=True).errors == 0
        assert rows() == [{"key": 0, "prediction": 21.0}]


def test_utf_16_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    for name in ("in.csv", "in.jsonl"):
        (tmp_path / name).write_text("x,y\n1,2\n", encoding="utf-16")

        with pytest.raises(InvalidArgument, match="UTF-16"):
            job("regressor", tmp_path / name)


def test_files_of_one_glob_may_be_empty_but_not_without_a_column(job: Job, rows: Rows, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([], pa.float64()), "y": pa.array([], pa.float64())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"y": [2], "x": ["1"]}), tmp_path / "b.parquet")

    job("regressor", f"{tmp_path}/*.parquet")
    assert rows() == [{"key": 0, "prediction": 21.0}]

    for table in (pa.table({"x": [1.0]}), pa.table([[1.0], [2.0], [3.0]], names=["x", "y", "y"])):
        pq.write_table(table, tmp_path / "c.parquet")
        with pytest.raises(InvalidArgument, match=r"columns y, each once.*c\.parquet"):
            job("regressor", f"{tmp_path}/*.parquet", overwrite=True)


def test_a_nested_column_is_no_number(job: Job, errors: Errors, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [{"a": 1}], "y": [1.0]}), tmp_path / "in.parquet")

    job("regressor", tmp_path / "in.parquet")

    assert "expected a number" in errors()["0"]


@pytest.mark.parametrize("model", ["regressor", "cnn"])
def test_damaged_pages_cost_the_rows_in_them(
    job: Job, errors: Errors, pictures: Path, tmp_path: Path, model: str
) -> None:
    columns = {"x": [1.0] * 200, "y": [2.0] * 200, "image": [(pictures / "1.png").read_bytes()] * 200}
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), file, compression="none", use_dictionary=False, row_group_size=100)
    content = bytearray(file.read_bytes())
    start = pq.read_metadata(file).row_group(1).column(0 if model == "regressor" else 2).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)

    summary = job(model, file, shard_rows=100)

    assert (summary.rows, summary.errors) == (100, 100)
    assert set(errors()) == {str(number) for number in range(100, 200)}
    assert "whole pages of Parquet" in errors()["100"]
