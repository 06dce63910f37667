"""Files that are there whole or as they were, whatever happens in between."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.errors import FailedPrecondition, ResourceExhausted
from services.files import TEMPORARY, check_folder, check_writable, replacing, write_whole

KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from services.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A file that is there from before."""
    path = tmp_path / "report.html"
    path.write_text("before")
    return path


def test_a_file_is_replaced_and_keeps_its_permissions(report: Path) -> None:
    report.chmod(0o600)
    write_whole(report, "after: é")
    assert report.read_bytes() == "after: é".encode()
    assert report.stat().st_mode & 0o777 == 0o600
    assert list(report.parent.iterdir()) == [report]


@pytest.mark.parametrize("interruption", [ZeroDivisionError, KeyboardInterrupt])
def test_what_is_interrupted_leaves_the_file_as_it_was(report: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), replacing(report) as temporary:  # noqa: PT012  # what is written before matters
        temporary.write_text("half")
        raise interruption
    assert report.read_text() == "before"
    assert list(report.parent.iterdir()) == [report]


def test_a_process_that_is_killed_leaves_the_file_as_it_was(report: Path, project: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, str(report)], cwd=project)
    assert done.returncode == -signal.SIGKILL
    assert report.read_text() == "before"
    assert [path.name for path in report.parent.iterdir() if not path.name.startswith(TEMPORARY)] == [report.name]


def test_a_full_disk_is_said_and_leaves_the_file_as_it_was(report: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # larger files fail, as on a full disk
    try:
        with pytest.raises(
            ResourceExhausted, match=r"Expected room to write the report of today\. Received: File too large"
        ):
            write_whole(report, b"x" * 2048, "the report of today")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert report.read_text() == "before"
    assert list(report.parent.iterdir()) == [report]


@pytest.mark.parametrize("write", [check_writable, lambda path: write_whole(path, "after")])
def test_a_place_that_cannot_be_written_is_named(report: Path, write: Callable[[Path], None]) -> None:
    for path, reason in (
        (report.parent, "Is a directory"),
        (report.parent / "missing" / "a", "No such file"),
        (report / "a", "Not a directory"),
    ):
        with pytest.raises(FailedPrecondition, match=f"able to write {path}.*{reason}"):
            write(path)


def test_a_check_leaves_nothing_but_the_folder_it_was_to_make(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "report.html", make_folder=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(report: Path) -> None:
    link = report.with_name("latest.html")
    link.symlink_to(report.name)
    write_whole(link, "after")
    assert link.is_symlink()
    assert report.read_text() == "after"


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe)
        write_whole(pipe, "after")
        assert os.read(reader, 100) == b"after"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_folder_that_could_not_be_made_is_named_and_none_is_made(report: Path) -> None:
    check_folder(report.parent / "models" / "a", "the models")
    with pytest.raises(FailedPrecondition, match=r"able to write the models\. Received: Not a directory"):
        check_folder(report / "models", "the models")
    assert list(report.parent.iterdir()) == [report]


def test_a_folder_without_leave_to_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(FailedPrecondition, match=r"able to write the models\. Received: Permission denied"):
        check_folder(tmp_path, "the models")
