"""What is there is not done again, and what is there of another job is left alone."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.batch import OutputDiffers, Summary, run
from services.errors import DataLoss, FailedPrecondition, ModelNotFound
from services.testing_typed import write_family

Job = Callable[..., Summary]
Rows = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("x,y\n" + "".join(f"{i},{'bad' if i % 10 == 3 else 0}\n" for i in range(40)), encoding="utf-8")
    return path


def test_a_second_run_does_only_what_is_missing(job: Job, rows: Rows, table: Path, tmp_path: Path) -> None:
    job("regressor", table, shard_rows=10)
    before = rows()
    (tmp_path / "out" / "rows" / "part-000002.parquet").unlink()
    kept = (tmp_path / "out" / "rows" / "part-000001.parquet").stat().st_mtime_ns
    told: list[tuple[int, int, int]] = []

    summary = job("regressor", table, shard_rows=10, progress=lambda *counts: told.append(counts))

    assert told[0] == (30, 3, 40)
    assert (summary.computed, summary.rows, summary.errors) == (10, 36, 4)
    assert rows() == before
    assert (tmp_path / "out" / "rows" / "part-000001.parquet").stat().st_mtime_ns == kept


def test_a_complete_job_is_left_as_it_is(job: Job, table: Path) -> None:
    job("regressor", table)

    assert job("regressor", table).computed == 0


@pytest.mark.parametrize(
    "changed", [{"batch_rows": 3}, {"shard_rows": 7}, {"key": "x"}, {"limit": 5}, {"model": "autoencoder"}]
)
def test_other_arguments_are_refused_and_overwrite_begins_anew(
    job: Job, rows: Rows, table: Path, changed: dict[str, Any]
) -> None:
    job("regressor", table)
    arguments = {"model": "regressor", **changed}
    model = arguments.pop("model")

    with pytest.raises(OutputDiffers, match=next(iter(changed))):
        job(model, table, **arguments)
    summary = job(model, table, **arguments, overwrite=True)

    assert summary.computed == summary.records
    assert len(rows()) == summary.rows


def test_another_input_is_refused(job: Job, pictures: Path, table: Path) -> None:
    job("cnn", pictures)
    shutil.copy(pictures / "1.png", pictures / "new.png")

    with pytest.raises(OutputDiffers, match="input files"):
        job("cnn", pictures)


def test_the_version_that_was_latest_is_not_mixed_with_a_later_one(table: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_family(repository / "regressor" / "1", "regressor")
    run("regressor", table, tmp_path / "out", repository=repository)
    write_family(repository / "regressor" / "2", "regressor")

    with pytest.raises(OutputDiffers, match="version 1, now 2"):
        run("regressor", table, tmp_path / "out", repository=repository)
    assert run("regressor/1", table, tmp_path / "out", repository=repository).computed == 0


def test_a_damaged_model_is_not_run(table: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_family(repository / "regressor" / "1", "regressor")
    with (repository / "regressor" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(DataLoss, match="SHA-256"):
        run("regressor", table, tmp_path / "out", repository=repository)
    with pytest.raises(ModelNotFound, match="regressor/1"):
        run("regressor/7", table, tmp_path / "out", repository=repository)


def test_rows_of_an_unknown_job_are_not_written_over(job: Job, table: Path, tmp_path: Path) -> None:
    job("regressor", table)
    shutil.rmtree(tmp_path / "out" / "_job")

    with pytest.raises(OutputDiffers, match="unknown job"):
        job("regressor", table)


def test_overwrite_leaves_files_that_are_not_the_jobs(job: Job, table: Path, tmp_path: Path) -> None:
    job("regressor", table)
    (tmp_path / "out" / "mine.txt").write_text("keep")

    job("regressor", table, overwrite=True)

    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_two_runs_do_not_write_to_one_output_at_once(job: Job, table: Path) -> None:
    refused: list[str] = []

    def again(*_: int) -> None:
        if not refused:
            with pytest.raises(FailedPrecondition, match="Another run") as error:
                job("regressor", table)
            refused.append(str(error.value))

    job("regressor", table, progress=again)

    assert refused


def test_what_a_killed_run_left_unfinished_is_swept(job: Job, table: Path, tmp_path: Path) -> None:
    left = tmp_path / "out" / "rows" / f".tmp-part-000000.parquet-{os.getpid()}-00"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")

    job("regressor", table)

    assert not left.exists()


def test_the_summary_lies_beside_the_rows(job: Job, table: Path, tmp_path: Path) -> None:
    summary = job("regressor", table)

    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["rows"] == summary.rows == 36
    assert stored["errors"] == 4
    assert stored["sha256"] == summary.sha256
    assert sum(stored["stages"].values()) == pytest.approx(1, abs=0.01)
