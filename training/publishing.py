"""The atomic publish: a version directory is visible whole, or not at all.

    with Staging(repository, "classifier") as staging:
        ...                                  # write below staging.path, a `.tmp-<version>-<pid>` that every server skips
        version, path = staging.publish()    # fsync, then one rename

Leaving the block without `publish` removes what was written. A process that dies leaves its temporary directory behind;
the next export of that model removes it.
"""

import errno
import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from services.errors import FailedPrecondition, InvalidArgument
from services.files import fsync, writing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TEMPORARY = re.compile(r"\.tmp-\d+-(\d+)")
_TRIES = 1000


def check_name(name: str) -> str:
    """A model name is a directory's name and a part of URLs. Raises InvalidArgument."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            "Expected a model name of at most 128 letters, digits, '.', '_' and '-' that starts with a letter or a digit. "
            f"Received: {name!r:.200}."
        )
    return name


class Staging:
    """A temporary directory beside the versions of one model, and its way to become the next one.

    Guarantees: nothing under a version's own name is ever half written; two exports at once get two versions; what a dead
    process left is removed and what a living one writes is not. Raises InvalidArgument for a name that is none,
    ResourceExhausted for a full disk and FailedPrecondition for a repository that cannot be written.
    """

    def __init__(self, repository: Path, name: str) -> None:
        self._base = repository / check_name(name)
        self._published = False
        with writing(f"the model repository {repository}"):
            self._base.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._base)
            self.path = self._create()
            self._lock = os.open(self.path, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: the owner's process id still protects the directory
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)
        if not self._published:
            shutil.rmtree(self.path, ignore_errors=True)

    def sync(self) -> None:
        """Force everything written so far to the disk, names included."""
        with writing(f"{self._base}"):
            for folder, _, files in os.walk(self.path, topdown=False):
                for file in files:
                    fsync(Path(folder, file))
                fsync(Path(folder))

    def publish(self) -> tuple[int, Path]:
        """Give the directory the next free version. Returns the version and where it is."""
        with writing(f"{self._base}"):
            for _ in range(_TRIES):
                version = _next_version(self._base)
                target = self._base / str(version)
                try:
                    self.path.rename(target)
                except OSError as error:
                    if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                        raise
                    continue  # another export took that version in between
                self._published = True
                fsync(self._base)
                return version, target
        raise FailedPrecondition(f"Expected a free version of {self._base.name}. Received: {_TRIES} that were taken.")

    def _create(self) -> Path:
        version = _next_version(self._base)
        while True:
            path = self._base / f".tmp-{version}-{os.getpid()}"
            try:
                path.mkdir()
            except FileExistsError:
                version += 1  # another thread of this process is exporting the same model
            else:
                return path


def _next_version(base: Path) -> int:
    taken = [int(entry.name) for entry in base.iterdir() if entry.name.isascii() and entry.name.isdigit()]
    return max(taken, default=0) + 1


def _remove_abandoned(base: Path) -> None:
    for entry in base.iterdir():
        match = _TEMPORARY.fullmatch(entry.name)
        if match and _is_abandoned(entry, int(match[1])):
            shutil.rmtree(entry, ignore_errors=True)


def _is_abandoned(path: Path, pid: int) -> bool:
    """Whether nobody writes there: no such process here, and (it may run in another container) nobody holds the lock."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    else:
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
