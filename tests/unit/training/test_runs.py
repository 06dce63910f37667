"""A run's folder: what may continue it, and when it is over."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.errors import DataError, FailedPrecondition, NotFound
from services.files import TEMPORARY
from training.runs import RUN_FILE, Identity, Run

IDENTITY = Identity("regressor", "price", {"epochs": 3, "units": [8]}, "prices.csv", "ab12", "price")


def test_the_newest_unfinished_run_is_resumed(tmp_path: Path) -> None:
    Run.start(tmp_path, IDENTITY)
    newest = Run.start(tmp_path, IDENTITY)
    Run.start(tmp_path, IDENTITY).finish(version=1)
    resumed = Run.resume(tmp_path, IDENTITY)
    assert resumed.directory == newest.directory
    assert resumed.resumed


def test_a_finished_run_leaves_nothing_to_resume(tmp_path: Path) -> None:
    run = Run.start(tmp_path, IDENTITY)
    run.checkpoint.write_bytes(b"state")
    run.finish(version=1)
    assert not run.checkpoint.exists()
    with pytest.raises(NotFound, match="Nothing to resume"):
        Run.resume(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"epochs": 4, "units": [8]}}, "epochs was 3 and is now 4"),
        ({"data_sha256": "cd34"}, "data_sha256 was 'ab12' and is now 'cd34'"),
        ({"target": None}, "target was 'price' and is now None"),
        ({"base_weights": "sha256:ef"}, "base_weights was '' and is now 'sha256:ef'"),
    ],
)
def test_other_options_or_data_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    Run.start(tmp_path, IDENTITY)
    with pytest.raises(FailedPrecondition) as caught:
        Run.resume(tmp_path, replace(IDENTITY, **changes))  # type: ignore[arg-type]  # the fields' own types
    assert message in str(caught.value)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run = Run.start(tmp_path, IDENTITY)
    (run.directory / RUN_FILE).write_text("{")
    with pytest.raises(DataError, match=RUN_FILE):
        Run.resume(tmp_path, IDENTITY)


def test_what_a_killed_process_left_half_written_goes_when_the_run_is_resumed(tmp_path: Path) -> None:
    run = Run.start(tmp_path, IDENTITY)
    (run.directory / f"{TEMPORARY}checkpoint.npz-1-0").write_bytes(b"half")
    Run.resume(tmp_path, IDENTITY)
    assert [path.name for path in run.directory.iterdir()] == [RUN_FILE]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(FailedPrecondition, match="Expected to be able to write the folder of runs"):
        Run.start(tmp_path / "runs", IDENTITY)
