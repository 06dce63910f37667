"""Publishing into one model's folder from several processes and threads at once."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.errors import FailedPrecondition, ResourceExhausted
from services.files import writing
from training.publishing import Staging

CHILD = """
import sys
from pathlib import Path
from training.publishing import Staging
with Staging(Path(sys.argv[1]), "model") as staging:
    (staging.path / "who").write_text(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    print(staging.publish()[0])
"""


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_processes_that_publish_at_once_get_a_version_each(tmp_path: Path, project: Path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(who)],
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in range(6)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"  # all have written before any publishes
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    versions = {int(child.communicate(timeout=60)[0]) for child in children}
    assert versions == {1, 2, 3, 4, 5, 6}
    assert {(tmp_path / "model" / str(v) / "who").read_text() for v in versions} == set("012345")


def test_threads_that_publish_at_once_get_a_version_each(tmp_path: Path):
    versions: list[int] = []
    barrier = threading.Barrier(8)

    def publish(who: int) -> None:
        with Staging(tmp_path, "model") as staging:
            (staging.path / "who").write_text(str(who))
            barrier.wait()
            versions.append(staging.publish()[0])

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 9))


def test_a_version_that_another_process_took_is_stepped_over(tmp_path: Path):
    with Staging(tmp_path, "model") as staging:
        (staging.path / "mine").write_text("")
        other = tmp_path / "model" / "1"
        other.mkdir()
        (other / "theirs").write_text("")
        assert staging.publish()[0] == 2
    assert (other / "theirs").exists()


def test_what_a_dead_process_left_is_removed(tmp_path: Path):
    left = tmp_path / "model" / f".tmp-1-{dead_pid()}"
    left.mkdir(parents=True)
    with Staging(tmp_path, "model"):
        assert not left.exists()


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path):
    theirs = tmp_path / "model" / f".tmp-1-{os.getppid()}"
    theirs.mkdir(parents=True)
    with Staging(tmp_path, "model"):
        assert theirs.exists()


def test_what_a_process_of_another_container_holds_is_left_alone(tmp_path: Path):
    theirs = tmp_path / "model" / f".tmp-1-{dead_pid()}"
    theirs.mkdir(parents=True)
    handle = os.open(theirs, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with Staging(tmp_path, "model"):
            assert theirs.exists()
    finally:
        os.close(handle)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path):
    def write() -> None:
        with Staging(tmp_path, "model") as staging:
            (staging.path / "half").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list((tmp_path / "model").iterdir()) == []


def test_a_full_disk_is_resource_exhausted():
    with pytest.raises(ResourceExhausted, match="room to write the repository"), writing("the repository"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_read_only_file_system_is_a_failed_precondition():
    with pytest.raises(FailedPrecondition, match="Read-only file system"), writing("the repository"):
        raise OSError(errno.EROFS, "Read-only file system")
