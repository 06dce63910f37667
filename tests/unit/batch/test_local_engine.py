"""The pipeline of one machine: bounded, and honest about processes that die."""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.batch import Summary, local_engine
from services.batch.decoding import Chunk, read_chunks
from services.batch.job import Shard, Source
from services.batch.local_engine import WORTH_PROCESSES, decoding_workers
from services.cpus import available_cpus
from services.errors import Internal

Job = Callable[..., Summary]


@pytest.fixture
def paths(tmp_path: Path, pictures: Path) -> Path:
    """A table of three hundred pictures."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"path": "{pictures}/{i % 10}.png"}}\n' for i in range(300)), encoding="utf-8")
    return source


def test_reading_stays_a_few_batches_ahead_of_the_model(job: Job, paths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, ahead = 0, []

    def counted(source: Source, shard: Shard, batch_rows: int) -> Iterator[Chunk]:
        nonlocal read
        for chunk in read_chunks(source, shard, batch_rows):
            read += chunk.rows
            yield chunk

    monkeypatch.setattr(local_engine, "read_chunks", counted)
    summary = job("cnn", paths, batch_rows=1, shard_rows=100, progress=lambda done, *_: ahead.append(read - done))

    assert summary.rows == 300
    assert max(ahead) <= 4  # two slots, the chunk that waits for one, and the one that has just been computed


def test_a_decoding_process_that_dies_ends_the_job_and_not_what_is_done(job: Job, paths: Path, tmp_path: Path) -> None:
    def kill(done: int, *_: int) -> None:
        if done == 20:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(Internal, match="decoding process"):
        job("cnn", paths, workers=1, batch_rows=1, shard_rows=10, progress=kill)
    kept = len(list((tmp_path / "out" / "rows").iterdir()))

    assert 1 <= kept < 30
    assert job("cnn", paths, workers=0, batch_rows=1, shard_rows=10).computed == 300 - 10 * kept


@pytest.mark.parametrize(
    ("kind", "rows", "asked", "workers"),
    [
        ("image", 10, None, available_cpus()),
        ("text", 10, None, available_cpus()),
        ("tabular", WORTH_PROCESSES, None, 0),
        ("image", 10, 0, 0),
        ("tabular", 10, 3, 3),
    ],
)
def test_processes_decode_what_is_worth_it(kind: str, rows: int, asked: int | None, workers: int) -> None:
    assert decoding_workers(kind, rows, asked) == workers
