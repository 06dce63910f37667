"""The files below a folder or behind a glob, one at a time, on any fsspec file system."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from services.batch.storage import file_system
from services.errors import InvalidArgument, NotFound

_MAGIC = re.compile(r"[*?\[]")
_SORTED_AT_ONCE = 65_536
"""Entries of a folder that are held and sorted together: what bounds the memory of a folder with millions of files."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: `name` relative to the listing's root, size in bytes, and what else changes with its content."""

    name: str
    size: int
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Where files are looked for. `root` opens the folder from any process; `pattern` is None where all files count.

    `own` are paths of the job's output, which are no input where they lie in it; one that ends in a slash is a folder.
    """

    root: str
    fs: Any
    path: str
    pattern: re.Pattern[str] | None
    single: str = ""
    own: tuple[str, ...] = ()

    def files(self) -> Iterator[FileEntry]:
        """Files with a name that does not start with a dot, folder by folder, sorted (a huge folder in portions)."""
        if self.single:
            yield _entry(self.single, self.fs.info(f"{self.path}/{self.single}"))
            return
        walk = _walk_local if isinstance(self.fs, LocalFileSystem) else _walk
        for entry in walk(self.fs, self.path):
            path = f"{self.path}/{entry.name}"
            if not path.startswith(self.own) and (self.pattern is None or self.pattern.fullmatch(path)):
                yield entry

    def without(self, fs: Any, own: tuple[str, ...]) -> "Listing":
        """The same without the files at these paths. Raises InvalidArgument where that is all there is."""
        if type(fs) is not type(self.fs):
            return self
        if f"{self.path}/{self.single}".startswith(own):
            raise InvalidArgument(
                f"Expected an input that is not the output's own. Received: {self.root}/{self.single}."
            )
        return replace(self, own=own)

    def url(self, name: str) -> str:
        """What opens one of the files from any process."""
        return f"{self.root}/{name}"


def find_input(url: str) -> Listing:
    """The listing of a folder, a glob or a single file. Raises NotFound where there is no such file or folder."""
    fs, path = file_system(url)
    path = path.rstrip("/")
    magic = _MAGIC.search(path)
    if magic and not fs.exists(path):
        root = path[: magic.start()].rpartition("/")[0]
        if not fs.isdir(root) and _local(fs):
            raise NotFound(f"Expected a glob in a folder that exists. Received: {url}.")
        return Listing(
            fs.unstrip_protocol(root) if not _local(fs) else root, fs, root, re.compile(glob_translate(path))
        )
    if not fs.exists(path):
        raise NotFound(f"Expected an input that exists. Received: {url}.")
    if fs.isdir(path):
        return Listing(path if _local(fs) else fs.unstrip_protocol(path), fs, path, None)
    root, _, name = path.rpartition("/")
    return Listing(root if _local(fs) else fs.unstrip_protocol(root), fs, root, None, name)


def encoded(name: str) -> bytes:
    """A file's name as the file system has it, which need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)


def _walk(fs: Any, root: str) -> Iterator[FileEntry]:
    for folder, folders, files in fs.walk(root, detail=True):
        for name in [name for name in folders if name.startswith(".")]:
            del folders[name]
        prefix = str(folder).rstrip("/")[len(root) :].strip("/")
        for name in sorted(files):
            if name and not name.startswith("."):
                yield _entry(f"{prefix}/{name}" if prefix else name, files[name])


def _walk_local(_fs: Any, root: str) -> Iterator[FileEntry]:
    """As `_walk`, without holding a whole folder; symbolic links to files count, those to folders are not followed."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        folders: list[str] = []
        with os.scandir(f"{root}/{prefix}") as entries:
            while portion := sorted(islice(entries, _SORTED_AT_ONCE), key=lambda entry: entry.name):
                for entry in portion:
                    if entry.name.startswith("."):
                        continue
                    name = f"{prefix}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{name}/")
                    elif (size := _size(entry)) is not None:
                        yield FileEntry(name, size)
        waiting += reversed(folders)


def _size(entry: os.DirEntry[str]) -> int | None:
    """None for a link to a folder."""
    try:
        found = entry.stat()
    except OSError:
        return -1  # a link to nothing or to itself: listed, and a bad record once it is read
    return None if stat.S_ISDIR(found.st_mode) else found.st_size


def _entry(name: str, info: dict[str, Any]) -> FileEntry:
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or ""
    return FileEntry(name, int(info.get("size") or 0), str(stamp))
