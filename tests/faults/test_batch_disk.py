"""A disk that is full in the middle of a job: a plain answer, nothing half written, and the same command goes on."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from services.batch import run
from services.testing_typed import write_family

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit on a file's size stands for a full disk")

_LIMIT_BYTES = 16_384
_ROWS = 6000


@contextmanager
def _files_end_at(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: writing more is an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_job_and_keeps_what_is_whole(tmp_path: Path) -> None:
    write_family(tmp_path / "models/regressor/1", "regressor")
    source, output = tmp_path / "in.csv", tmp_path / "out"
    # Numbers that compress away for two shards of three, so that only the last one's part is too large.
    rows = (f"{0 if i < _ROWS * 2 // 3 else i},{0 if i < _ROWS * 2 // 3 else i / 7}\n" for i in range(_ROWS))
    source.write_text("x,y\n" + "".join(rows), encoding="utf-8")
    options = {"repository": tmp_path / "models", "shard_rows": _ROWS // 3, "workers": 0}

    with _files_end_at(_LIMIT_BYTES), pytest.raises(OSError, match=r"part-000002\.parquet"):
        run("regressor", source, output, **options)  # type: ignore[arg-type]  # of several types

    assert sorted(path.name for path in (output / "rows").iterdir()) == ["part-000000.parquet", "part-000001.parquet"]
    summary = run("regressor", source, output, **options)  # type: ignore[arg-type]  # of several types
    assert (summary.computed, summary.rows) == (_ROWS // 3, _ROWS)
    assert pq.read_table(output / "rows").num_rows == _ROWS
