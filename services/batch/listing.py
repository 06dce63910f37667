"""The files below a folder or behind a glob, one at a time, on any fsspec file system."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from services.batch.storage import file_system
from services.errors import NotFound

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
    """Where files are looked for. `root` opens the folder from any process; `pattern` is None where all files count."""

    root: str
    fs: Any
    path: str
    pattern: re.Pattern[str] | None
    single: str = ""

    def files(self) -> Iterator[FileEntry]:
        """Files with a name that does not start with a dot, folder by folder, sorted (a huge folder in portions)."""
        if self.single:
            yield _entry(self.single, self.fs.info(f"{self.path}/{self.single}"))
            return
        walk = _walk_local if isinstance(self.fs, LocalFileSystem) else _walk
        for entry in walk(self.fs, self.path):
            if self.pattern is None or self.pattern.fullmatch(f"{self.path}/{entry.name}"):
                yield entry

    def url(self, name: str) -> str:
        """What opens one of the files from any process."""
        return f"{self.root}/{name}"


def find_input(url: str) -> Listing:
    """The listing of a folder, a glob or a single file. Raises NotFound where nothing is there."""
    fs, path = file_system(url)
    path = path.rstrip("/")
    magic = _MAGIC.search(path)
    if magic and not fs.exists(path):
        root = path[: magic.start()].rpartition("/")[0]
        return Listing(
            fs.unstrip_protocol(root) if not _local(fs) else root, fs, root, re.compile(glob_translate(path))
        )
    if not fs.exists(path):
        raise NotFound(f"Expected an input that exists. Received: {url}.")
    if fs.isdir(path):
        return Listing(path if _local(fs) else fs.unstrip_protocol(path), fs, path, None)
    root, _, name = path.rpartition("/")
    return Listing(root if _local(fs) else fs.unstrip_protocol(root), fs, root, None, name)


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
                    elif not entry.is_dir():
                        yield FileEntry(name, _size(entry))
        waiting += reversed(folders)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1  # a dangling link: listed, and a bad record once it is read


def _entry(name: str, info: dict[str, Any]) -> FileEntry:
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or ""
    return FileEntry(name, int(info.get("size") or 0), str(stamp))
