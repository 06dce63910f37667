"""What the Ray engine does before there is a Ray, and what its actor does without one."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from services.batch.job import Job, JobOptions, ModelRef, Shard, ShardResult, Source
from services.batch.model import resolve
from services.batch.ray_engine import ShardActor, run_shards
from services.errors import FailedPrecondition
from services.testing import write_offset


class Counts:
    def __init__(self) -> None:
        self.results: list[ShardResult] = []

    def advanced(self, records: int, errors: int) -> None:
        pass

    def finished(self, result: ShardResult) -> None:
        self.results.append(result)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Three lines of one number, and a model that adds one."""
    write_offset(tmp_path / "models/offset/1", 1.0)
    (tmp_path / "rows.jsonl").write_text('{"x": [1]}\n{"x": [2]}\n{"x": [3]}\n')
    source = Source("jsonl", "tensors", str(tmp_path), ("x",))
    return Job(resolve(tmp_path / "models", "offset"), source, str(tmp_path / "out"), batch_rows=2)


def shards(tmp_path: Path, *rows: int) -> pa.Table:
    file, line = str(tmp_path / "rows.jsonl"), len('{"x": [1]}\n')
    return pa.table(
        {
            "index": rows,
            "rows": [1] * len(rows),
            "first_row": rows,
            "file": [file] * len(rows),
            "start": [row * line for row in rows],
            "stop": [(row + 1) * line for row in rows],
        }
    )


def test_an_actor_writes_a_part_for_each_shard_and_answers_its_counts(job: Job, tmp_path: Path) -> None:
    rows = ShardActor(job)(shards(tmp_path, 0, 2)).to_pylist()

    assert [(row["index"], row["rows"], row["errors"], row["failure"]) for row in rows] == [
        (0, 1, 0, None),
        (2, 1, 0, None),
    ]
    assert sorted(path.name for path in (tmp_path / "out/rows").iterdir()) == [
        "part-000000.parquet",
        "part-000002.parquet",
    ]


def test_an_actor_answers_what_stops_a_shard(job: Job, tmp_path: Path) -> None:
    """An exception would end the actor, and Ray would start the model again and again."""
    (job.model.path / "model.onnx").unlink()

    (row,) = ShardActor(job)(shards(tmp_path, 1)).to_pylist()

    assert row["failure"].startswith("Shard 1: Expected a file model.onnx")


def test_a_job_without_ray_names_the_extra(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the engine tells Ray its wishes there
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(FailedPrecondition, match=r"cornet\[batch\]"):
        run_shards(job, [Shard(0, 1, 0, "rows.jsonl", 0, 11)], JobOptions("offset", "in", "out"), Counts())


def test_a_job_with_nothing_missing_starts_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    job = Job(ModelRef("m", 1, Path("m"), ""), Source("csv", "tabular"), "out", 1)
    counts = Counts()

    run_shards(job, [], JobOptions("m", "in", "out"), counts)

    assert counts.results == []
