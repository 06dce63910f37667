"""The files of the request log: whole, bounded, private, and readable after a crash."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
import pytest

from services.errors import DataError
from services.telemetry.request_log.folder import Folder
from services.telemetry.request_log.options import RequestLogOptions
from services.telemetry.request_log.reading import read
from services.telemetry.request_log.records import Record, Tensor, _tensors
from services.testing import FakeClock

FORMATS = ("jsonl", "parquet")


def record(number: int = 0, **values: object) -> Record:
    fields: dict[str, object] = {
        "at": 1.7e9 + number,
        "request_id": f"r{number}",
        "protocol": "oip-rest",
        "method": "infer",
        "model": "m",
        "version": 1,
        "signature": "serving_default",
        "code": 0,
        "rows": 1,
        "batch_rows": 1,
        "received_bytes": 1,
        "sent_bytes": 1,
        "phases": (1e-4, 2e-4, 3e-4, 4e-4),
        "total_s": 1e-3,
        "traceparent": None,
    }
    return Record(**{**fields, **values})


def finished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".tmp")


def ids(folder: Path) -> list[str]:
    """Request ids in all finished files, JSON lines or Parquet."""
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jsonl":
            found += [orjson.loads(line)["request_id"] for line in path.read_bytes().splitlines()]
        elif path.suffix == ".parquet":
            found += parquet(path).column("request_id").to_pylist()
    return sorted(found)


def parquet(path: Path) -> object:
    import pyarrow.parquet as pq

    return pq.read_table(path)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that takes no more than `size` bytes of a file, and of the last write only a part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_has_its_final_name_only_when_it_is_whole(tmp_path: Path, kind: str) -> None:
    folder = Folder(RequestLogOptions(tmp_path, format=kind))
    folder.write([record(1), record(2)])
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    folder.finish()
    [name] = finished(tmp_path)
    assert name.endswith(f".{kind}")
    assert ids(tmp_path) == ["r1", "r2"]
    assert folder.written == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_only_the_owner_may_read_the_files(tmp_path: Path, kind: str) -> None:
    folder = Folder(RequestLogOptions(tmp_path / "made", format=kind))
    folder.check()
    folder.write([record()])
    folder.finish()
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()] == [0o600]


def test_a_full_file_is_finished_and_another_begun(tmp_path: Path) -> None:
    folder = Folder(RequestLogOptions(tmp_path, file_bytes=1))
    for number in range(3):
        folder.write([record(number)])
    assert len(finished(tmp_path)) == 3
    assert ids(tmp_path) == ["r0", "r1", "r2"]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_old_file_is_finished(tmp_path: Path, kind: str) -> None:
    clock = FakeClock()
    folder = Folder(RequestLogOptions(tmp_path, format=kind, file_s=60), clock)
    assert folder.seconds_left() is None
    folder.write([record()])
    assert folder.seconds_left() == 60
    clock.advance(59)
    folder.finish(only_due=True)
    assert finished(tmp_path) == []
    clock.advance(1)
    folder.finish(only_due=True)
    assert len(finished(tmp_path)) == 1
    assert folder.seconds_left() is None


def test_the_oldest_finished_files_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    for day in range(1, 4):
        (tmp_path / f"requests-2026010{day}T000000Z-00000000.jsonl").write_bytes(b"x" * 1000)
    (tmp_path / "requests-notes.txt").write_bytes(b"x" * 5000)
    folder = Folder(RequestLogOptions(tmp_path, keep_bytes=2500))
    folder.write([record()])
    folder.finish()
    kept = finished(tmp_path)
    assert "requests-20260101T000000Z-00000000.jsonl" not in kept
    assert kept[:2] == ["requests-20260102T000000Z-00000000.jsonl", "requests-20260103T000000Z-00000000.jsonl"]
    assert "requests-notes.txt" in kept


def test_the_newest_file_stays_even_where_it_is_over_the_limit(tmp_path: Path) -> None:
    folder = Folder(RequestLogOptions(tmp_path, file_bytes=1, keep_bytes=0))
    folder.write([record(1)])
    assert ids(tmp_path) == ["r1"]


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path) -> None:
    folder = Folder(RequestLogOptions(tmp_path))
    folder.write([record(1)])
    size = next(tmp_path.iterdir()).stat().st_size
    with files_of_at_most(size + 10), pytest.raises(OSError, match="too large"):
        folder.write([record(2), record(3)])
    assert (folder.written, folder.lost) == (1, 2)
    folder.write([record(4)])
    folder.finish()
    assert ids(tmp_path) == ["r1", "r4"]


def test_a_disk_that_fills_up_leaves_no_half_parquet(tmp_path: Path) -> None:
    folder = Folder(RequestLogOptions(tmp_path, format="parquet"))
    folder.write([record(1), record(2)])
    with files_of_at_most(64), pytest.raises(OSError, match="too large"):
        folder.finish()
    assert (folder.written, folder.lost) == (0, 2)
    assert list(tmp_path.iterdir()) == []
    folder.write([record(3)])
    folder.finish()
    assert ids(tmp_path) == ["r3"]


_WRITER = """
import os, sys
sys.path.insert(0, "tests/unit/telemetry")
from pathlib import Path
from test_request_log_files import Folder, RequestLogOptions, record
folder = Folder(RequestLogOptions(Path(sys.argv[1]), format=sys.argv[2], file_bytes=1 if sys.argv[3] == "full" else 1 << 20))
folder.write([record(1)])
folder._options = RequestLogOptions(Path(sys.argv[1]), format=sys.argv[2])
folder.write([record(2)])
print("written", flush=True)
sys.stdin.read()
"""


@contextmanager
def writer(folder: Path, kind: str, project: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of its log: one record in a finished file, another in one that is open."""
    command = [sys.executable, "-c", _WRITER, str(folder), kind, "full" if kind == "jsonl" else "open"]
    process = subprocess.Popen(
        command, cwd=project, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n", process.stderr and process.stderr.read()
        yield process
        process.kill()


def test_what_a_killed_process_wrote_as_lines_can_be_read(tmp_path: Path, project: Path) -> None:
    with writer(tmp_path, "jsonl", project) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    [left] = tmp_path.glob("*.tmp")
    with left.open("ab") as file:
        file.write(b'{"request_id":"ha')  # a write that was cut in the middle
    folder = Folder(RequestLogOptions(tmp_path))
    assert folder.tidy() == 1
    assert ids(tmp_path) == ["r1", "r2"]


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path, project: Path) -> None:
    with writer(tmp_path, "jsonl", project):
        before = {path.name for path in tmp_path.iterdir()}
        assert Folder(RequestLogOptions(tmp_path)).tidy() == 0
        assert {path.name for path in tmp_path.iterdir()} == before


def test_half_a_parquet_of_a_killed_process_is_never_seen(tmp_path: Path, project: Path) -> None:
    with writer(tmp_path, "parquet", project) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finished(tmp_path) == []
    Folder(RequestLogOptions(tmp_path, format="parquet")).tidy()
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size]


def test_parquet_has_types_and_raw_tensors(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.int64).reshape(3, 2)
    words = np.array([b"a", b"\xff"], object)
    (inputs, left) = _tensors({"rows": rows, "words": words}, 1000)
    folder = Folder(RequestLogOptions(tmp_path, format="parquet", payload_bytes=1000))
    folder.write([record(1, inputs=inputs), record(2, phases=None, version=None)])
    folder.finish()
    first, second = parquet(next(tmp_path.iterdir())).to_pylist()
    assert first["time"].timestamp() == 1.7e9 + 1
    assert (first["decode_ms"], first["total_ms"], second["decode_ms"], second["version"]) == (0.1, 1.0, None, None)
    got = first["inputs"]
    np.testing.assert_array_equal(np.frombuffer(got[0]["raw"], "<i8").reshape(got[0]["shape"]), rows)
    assert got[1]["raw"] == b"\x01\x00\x00\x00a\x01\x00\x00\x00\xff"
    assert left == 1000 - 48 - 10


def test_a_tensor_that_does_not_fit_is_named_without_its_values(tmp_path: Path) -> None:
    arrays = {
        "image": np.zeros((10, 10), np.uint8),
        "scale": np.ones(2, np.float32),
        "text": np.array([b"x" * 90], object),
    }
    tensors, left = _tensors(arrays, 50)
    assert record(inputs=tensors).to_json(payloads=True)["payload_cut"] is True
    assert tensors[0].to_json() == {"name": "image", "datatype": "UINT8", "shape": (10, 10), "cut": True}
    assert tensors[1].to_json()["data"].tolist() == [1.0, 1.0]
    assert tensors[2].values is None
    assert left == 42


@pytest.mark.parametrize(
    ("array", "member"),
    [
        (np.array([1.5, np.nan], np.float32), "base64"),
        (np.zeros(2000, np.uint8), "base64"),
        (np.array([b"\xff"], object), "base64"),
        (np.array([1.5], np.float16), "data"),
        (np.array([True]), "data"),
        (np.array([2**64 - 1], np.uint64), "data"),
        (np.array(["é".encode()], object), "data"),
        (np.zeros((0, 3), np.float32), "data"),
        (np.array(2.5, np.float64), "data"),
    ],
)
def test_values_that_json_has_no_form_for_or_that_are_many_are_bytes(
    tmp_path: Path, array: np.ndarray, member: str
) -> None:
    (tensors, _) = _tensors({"x": array}, 10_000)
    folder = Folder(RequestLogOptions(tmp_path, payload_bytes=10_000))
    folder.write([record(inputs=tensors)])
    folder.finish()
    [tensor] = orjson.loads(next(tmp_path.iterdir()).read_bytes())["inputs"]
    assert sorted(tensor) == sorted(("name", "datatype", "shape", member))
    if member == "data":
        expected = [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
        assert tensor["data"] == expected


def test_a_type_that_no_model_has_is_named_without_its_values() -> None:
    ((tensor,), left) = _tensors({"x": np.zeros(2, np.complex64)}, 100)
    assert (tensor.datatype, tensor.values, left) == ("complex64", None, 100)


def test_a_folder_is_read_while_it_is_written(tmp_path: Path) -> None:
    import pandas as pd

    folder = Folder(RequestLogOptions(tmp_path, format="parquet"))
    folder.write([record(1)])
    folder.finish()
    folder.write([record(2)])
    assert pd.read_parquet(tmp_path)["request_id"].tolist() == ["r1"]
    assert [logged.fields["request_id"] for logged in read(tmp_path)] == ["r1"]
    folder.finish()
    assert pd.read_parquet(tmp_path)["request_id"].sort_values().tolist() == ["r1", "r2"]


def test_a_record_keeps_no_more_of_a_batch_than_its_own_rows() -> None:
    """A view of a batch would keep all of it in memory while the record waits."""
    batch = np.zeros((1000, 4), np.float32)
    ((tensor,), _) = _tensors({"x": batch[:1]}, 1000)
    assert isinstance(tensor, Tensor)
    assert tensor.values == bytes(16)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, np.nan]], np.float32),
        np.array([0.1, 1e-30], np.float32),
        np.zeros((2000, 1), np.uint8),
        np.array([b"\xff", b"", b"ab"], object),
        np.array(["é".encode(), b""], object),
        np.array([True, False]),
        np.array(2**63, np.uint64),
        np.zeros((0, 3), np.float16),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_what_was_logged_is_read_back_to_the_bit(tmp_path: Path, kind: str, array: np.ndarray) -> None:
    (tensors, _) = _tensors({"x": array}, 10_000)
    folder = Folder(RequestLogOptions(tmp_path, format=kind, payload_bytes=10_000))
    folder.write([record(7, inputs=tensors)])
    folder.finish()
    [logged] = read(tmp_path)
    assert logged.fields["request_id"] == "r7"
    assert logged.inputs is not None
    assert logged.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(logged.inputs["x"], array)
    assert logged.outputs is None


@pytest.mark.parametrize("kind", FORMATS)
def test_a_request_whose_payload_was_cut_is_read_without_inputs(tmp_path: Path, kind: str) -> None:
    (tensors, _) = _tensors({"x": np.zeros(100)}, 10)
    folder = Folder(RequestLogOptions(tmp_path, format=kind, payload_bytes=10))
    folder.write([record(inputs=tensors)])
    folder.finish()
    assert [logged.inputs for logged in read(tmp_path)] == [None]


@pytest.mark.parametrize("content", [b"not json\n", b"[1]\n", b'{"inputs": [{"name": "x", "data": [1]}]}\n'])
def test_another_file_than_a_log_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.jsonl: expected a request log"):
        list(read(path))
