"""`kill -9` of a batch job at several moments: what was written stays, nothing half is seen, and the same command goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from services.batch import run
from services.testing_typed import write_family

_SHARDS = 150
_ROWS = 10


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for family in ("regressor", "cnn"):
        write_family(root / family / "1", family)
    return root


def _start(repository: Path, model: str, source: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.cli", "batch", model, "--repository", str(repository)]
    command += ["--input", str(source), "--output", str(output), *options]
    # A shell starts what it runs in the background with SIGINT ignored, and children inherit that, but no handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def _kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, f"the job ended before it could be killed: {said}"


def test_a_job_killed_again_and_again_ends_as_one_that_was_not(repository: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out"
    rows = (f"{i},{'bad' if i % 50 == 7 else i / 3}\n" for i in range(_SHARDS * _ROWS))
    source.write_text("x,y\n" + "".join(rows), encoding="utf-8")
    options = ("--shard-rows", str(_ROWS), "--batch-rows", "3")
    parts = output / "rows"

    def written() -> list[Path]:
        return sorted(parts.glob("part-*.parquet"))

    for point in (0, 1, 60):
        moment = (output / "_job").exists if point == 0 else lambda wanted=point: len(written()) >= wanted
        _kill_when(_start(repository, "regressor", source, output, *options), moment)
        for part in written():
            table = pq.read_table(part)  # a half file would not open
            assert table.num_rows + sum(1 for i in _records(part) if i % 50 == 7) == _ROWS

    kept = {part.name: part.stat().st_mtime_ns for part in written()}
    last = _start(repository, "regressor", source, output, *options)
    told, _ = last.communicate(timeout=120)

    assert last.returncode == 0, told
    assert f"{len(kept) * _ROWS:,} were there before" in told
    assert {name: (parts / name).stat().st_mtime_ns for name in kept} == kept
    run("regressor", source, tmp_path / "whole", repository=repository, shard_rows=_ROWS, batch_rows=3)
    assert pq.read_table(parts).equals(pq.read_table(tmp_path / "whole" / "rows"))
    assert pq.read_table(output / "errors.parquet").equals(pq.read_table(tmp_path / "whole" / "errors.parquet"))
    assert not list(output.rglob(".tmp-*"))


def _records(part: Path) -> range:
    first = int(part.stem.removeprefix("part-")) * _ROWS
    return range(first, first + _ROWS)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(400):
        Image.new("L", (64, 64), index % 256).save(folder / f"{index:03}.png")
    return folder


def test_the_decoding_processes_of_a_killed_job_end_with_it(repository: Path, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = _start(repository, "cnn", pictures, output, "--workers", "2", "--shard-rows", "4", "--batch-rows", "1")
    children: set[int] = set()

    def decoding() -> bool:
        children.update(_children(job.pid))
        return len(list(output.glob("rows/part-*"))) >= 2

    _kill_when(job, decoding)

    deadline = time.monotonic() + 20
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) >= 3, "two that decode, and Python's resource tracker"
    assert not any(map(_runs, children))


def test_an_interrupted_job_says_how_to_go_on(repository: Path, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        job = _start(repository, "cnn", pictures, output, "--workers", "0", "--shard-rows", "4", "--batch-rows", "1")
        before = len(list(output.glob("rows/part-*")))
        deadline = time.monotonic() + 60
        while len(list(output.glob("rows/part-*"))) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        job.send_signal(number)
        _, told = job.communicate(timeout=60)

        assert job.returncode == status
        assert "the same command continues" in told
        assert "Traceback" not in told


def _children(pid: int) -> set[int]:
    """Child processes, whichever thread has started them."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, task.read_text().split()))
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
