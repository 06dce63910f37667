"""Files of a job on any fsspec file system, where a file is there whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from services.errors import FailedPrecondition, InvalidArgument
from services.files import TEMPORARY, replacing


class Storage:
    """A folder at a path or URL. `put` and `create` write a file whole or not at all.

    On a local disk: a temporary file in the same folder, flushed to the disk, then renamed. On an object store: one upload,
    which shows nothing before it is complete.

        storage = Storage("s3://bucket/features")
        storage.put("rows/part-00000.parquet", content)
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        self.fs, path = file_system(url)
        self.root = path.rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def at(self, name: str) -> str:
        """The file system's own path of a file in this folder."""
        return f"{self.root}/{name}"

    def url_of(self, name: str) -> str:
        """What opens the file from another process."""
        return f"{self.url}/{name}" if not self.is_local else self.at(name)

    def put(self, name: str, content: bytes | memoryview) -> None:
        if not self.is_local:
            self.fs.pipe_file(self.at(name), bytes(content))
            return
        with self.create(name) as file:
            file.write(content)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to, which appears under its name when the block ends without an error."""
        if not self.is_local:
            with tempfile.NamedTemporaryFile() as spool:
                yield spool
                spool.flush()
                self.fs.put_file(spool.name, self.at(name))
            return
        target = Path(self.at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, temporary.open("xb") as file:
            yield file

    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is no such file."""
        try:
            content: bytes = self.fs.cat_file(self.at(name))
        except FileNotFoundError:
            return None
        return content

    def names(self, folder: str) -> set[str]:
        """File names in a folder below, unfinished ones left out; empty where there is no such folder."""
        return {name for name in self._names(folder) if not name.startswith(TEMPORARY)}

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""
        if self.fs.exists(self.at(name)):
            self.fs.rm(self.at(name), recursive=True)

    def sweep(self, *folders: str) -> None:
        """Remove what a killed run has left unfinished. Only while no other run writes here."""
        if self.is_local:
            for folder in folders:
                for name in self._names(folder):
                    if name.startswith(TEMPORARY):
                        Path(self.at(f"{folder}/{name}")).unlink(missing_ok=True)

    def open(self, name: str) -> Any:
        return self.fs.open(self.at(name), "rb")

    def _names(self, folder: str) -> Iterator[str]:
        try:
            entries = self.fs.ls(self.at(folder), detail=False)
        except FileNotFoundError:
            return
        for entry in entries:
            yield str(entry).rstrip("/").rpartition("/")[2]


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and its own path. Raises InvalidArgument, FailedPrecondition without its package."""
    try:
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ValueError as error:
        raise InvalidArgument(f"Expected a path or a URL that fsspec knows. Received: {url} ({error}).") from error
    except ImportError as error:
        raise FailedPrecondition(f"{url}: {error}.") from error
    return fs, str(path)


def open_url(url: str) -> Any:
    """A seekable binary file at a path or URL."""
    fs, path = file_system(url)
    return fs.open(path, "rb")


def absolute(url: str) -> str:
    """One spelling of a path or URL, wherever it is used from."""
    fs, path = file_system(url)
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
