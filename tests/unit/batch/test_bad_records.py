"""A bad record is set aside with its key and reason, and the job goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from services.batch import ErrorRateExceeded, Summary

Job = Callable[..., Summary]
Rows = Callable[[], list[dict[str, Any]]]
Errors = Callable[[], dict[str, str]]


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_cannot_be_read(job: Job, rows: Rows, errors: Errors, pictures: Path, workers: int) -> None:
    whole = pictures / "0.jpg"
    Image.effect_noise((300, 200), 90).save(whole)
    (pictures / "half.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (pictures / "text.png").write_text("no picture")
    (pictures / "gone.png").symlink_to(pictures / "nowhere")

    summary = job("cnn", pictures, workers=workers)

    assert (summary.rows, summary.errors, summary.records) == (11, 3, 14)
    assert len(rows()) == 11
    reasons = errors()
    assert "whole image file" in reasons["half.jpg"]
    assert "image file" in reasons["text.png"]
    assert "No such file" in reasons["gone.png"]


def test_rows_that_are_no_csv_do_not_cost_their_neighbours(
    job: Job, rows: Rows, errors: Errors, tmp_path: Path
) -> None:
    lines = ["1,0", "2", "3,0,0", 'five,"0"', '"4,0', "5,0", "6,inf", "7,0"]
    (tmp_path / "in.csv").write_text("x,y\n" + "\n".join(lines) + "\n", encoding="utf-8")

    job("regressor", tmp_path / "in.csv", shard_rows=3)

    assert [(row["key"], row["prediction"]) for row in rows()] == [(0, 1.0), (5, 5.0), (7, 7.0)]
    reasons = errors()
    assert reasons["1"] == "expected 2 cells. Received: 1."
    assert reasons["2"] == "expected 2 cells. Received: 3."
    assert "column 'x': expected a number" in reasons["3"]
    assert "expected a row of CSV" in reasons["4"]
    assert "expected a number" in reasons["6"]


def test_lines_that_are_no_json_are_set_aside(job: Job, rows: Rows, errors: Errors, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"x": 1, "y": 1}\n{"x": NaN, "y": 1}\n\n{"x": 1}\n\xff\n{"x": 2, "y": 2}\n')

    job("regressor", tmp_path / "in.jsonl")

    assert [row["key"] for row in rows()] == [0, 4]
    assert set(errors()) == {"1", "2", "3"}


def test_a_record_without_its_key_is_set_aside_under_its_number(
    job: Job, rows: Rows, errors: Errors, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id,x,y\na,1,1\n,1,1\n", encoding="utf-8")

    job("regressor", tmp_path / "in.csv", key="id")

    assert [row["key"] for row in rows()] == ["a"]
    assert set(errors()) == {"1"}


def test_values_the_model_refuses_are_found_row_by_row(job: Job, rows: Rows, errors: Errors, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i}) + "\n" for i in (1, 99, 2)), encoding="utf-8")

    job("lookup", tmp_path / "in.jsonl")

    assert [(row["key"], row["value"]) for row in rows()] == [(0, 10.0), (2, 20.0)]
    assert "refuses" in errors()["1"]


def test_a_shard_of_bad_records_alone_is_an_empty_part(job: Job, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x,y\na,1\nb,1\n1,1\n", encoding="utf-8")

    summary = job("regressor", tmp_path / "in.csv", shard_rows=2)

    assert summary.errors == 2
    assert [row["key"] for row in rows()] == [2]
    assert pq.read_table(tmp_path / "out" / "rows" / "part-000000.parquet").num_rows == 0


def test_more_bad_records_than_allowed_stop_the_job_early(job: Job, errors: Errors, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x,y\n" + "1,1\nbad,1\n" * 5000, encoding="utf-8")

    with pytest.raises(ErrorRateExceeded, match=r"at most 10\.00%") as stopped:
        job("regressor", tmp_path / "in.csv", max_error_rate=0.1, shard_rows=100)

    assert stopped.value.summary.status == "error_rate_exceeded"
    assert stopped.value.summary.computed < 1000
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "error_rate_exceeded"


def test_few_records_are_judged_at_the_end(job: Job, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x,y\nbad,1\n1,1\n1,1\n", encoding="utf-8")

    with pytest.raises(ErrorRateExceeded):
        job("regressor", tmp_path / "in.csv", max_error_rate=0.3)
    assert len(rows()) == 2
    assert job("regressor", tmp_path / "in.csv", max_error_rate=0.4).status == "complete"
