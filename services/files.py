"""Files on a local disk that are there whole, or as they were before: reports, results, records, checkpoints.

    check_writable(path)                        # before the long work, not after it; `check_folder` for a folder
    write_whole(path, html)                     # a text or bytes

    with writing("the rows"), replacing(path) as temporary:
        frame.to_parquet(temporary)

What cannot be written is an error of cornet's own tree that names it, and what was there before stays.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import CornetError, FailedPrecondition, ResourceExhausted

TEMPORARY = ".tmp-"
"""What the name of an unfinished file starts with; no reader of Parquet folders looks at a name with a dot in front."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room: on the disk, in a quota, or for so large a file."""


def write_whole(path: Path, content: str | bytes, what: str = "") -> None:
    """Put a text, in UTF-8, or bytes into a file, whole or not at all. `what` is its name in errors, the path without one.

    Raises ResourceExhausted for a full disk, FailedPrecondition for a place that cannot be written.
    """
    with writing(what or str(path)), replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def check_writable(path: Path, what: str = "", *, make_folder: bool = False) -> None:
    """Raise what `write_whole` would for the place, before there is anything to write; `make_folder` makes a missing one."""
    with writing(what or str(path)):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        if temporary != path:
            temporary.touch()
            temporary.unlink()


def check_folder(path: Path, what: str) -> None:
    """Raise FailedPrecondition where nothing can be written to a folder, or no such folder made; makes none."""
    with writing(what):
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` when the block ends without an error: a file in the same folder.

    It is flushed to the disk before that, and gets the permissions of what it replaces. After a crash at any moment the
    old file is there, or the new one. A link stays, and what it leads to is replaced; a device or a pipe is written to as
    it is. Raises OSError, which names a file, and leaves nothing behind.
    """
    temporary = _beside(path)
    if temporary == path:
        yield path
        return
    target = path.resolve()
    try:
        yield temporary
        fsync(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say itself where
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn the operating system's errors into the tree's, naming what could not be written."""
    try:
        yield
    except OSError as error:
        raise _refusal(what, error) from error


def fsync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """A name that nobody has, in the folder of the file that `path` leads to; `path` itself where that is no file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        return path
    target = path.resolve()
    return target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _refusal(what: str, error: OSError) -> CornetError:
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK:
        return ResourceExhausted(f"Expected room to write {what}. Received: {reason}.")
    return FailedPrecondition(f"Expected to be able to write {what}. Received: {reason}.")
