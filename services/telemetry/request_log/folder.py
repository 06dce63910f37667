"""The files of the log: named, bounded in size and age, finished by a rename, and the oldest deleted.

A file is `requests-<time it was begun>-<random>.jsonl` or `.parquet`. While it is written its name
begins with a dot, which readers of whole folders pass over, and ends in `.tmp`, so that what has a final name is whole.
Several processes may share a folder: each holds a lock on the file it writes, so that one whose process died is told from
one in use. Only the owner may read the files.
"""

import fcntl
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from time import monotonic

from services.errors import FailedPrecondition
from services.telemetry.request_log.options import RequestLogOptions
from services.telemetry.request_log.records import Record
from services.telemetry.request_log.sinks import JsonLines, Parquet, Sink, repair_lines

TEMPORARY = ".tmp"

_FINISHED = re.compile(r"requests-\d{8}T\d{6}Z-[0-9a-f]{8}\.(jsonl|parquet)")
_MODE = 0o600


class Folder:
    """Where records are written, by one thread. `write` and `finish` raise what the disk or the format refuses; the next
    record then begins another file. `written` counts the records that a reader can read, `lost` those that none will.

    `clock` gives seconds, monotonic, and decides a file's age.
    """

    def __init__(self, options: RequestLogOptions, clock: Callable[[], float] = monotonic) -> None:
        self.written = 0
        self.lost = 0
        self._options = options
        self._clock = clock
        self._sink: Sink | None = None
        self._path = Path()
        self._due = 0.0

    def check(self) -> None:
        """Make the folder where it is missing. Raises FailedPrecondition where it cannot be written, and for Parquet without
        pyarrow.
        """
        options = self._options
        if options.format == "parquet":
            try:
                Parquet.prepare()
            except ImportError:
                raise FailedPrecondition(
                    "Expected pyarrow for a request log in Parquet. Received: none. Install it, or log as jsonl."
                ) from None
        probe = options.folder / f".requests-probe-{token_hex(4)}"
        try:
            options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))
            probe.unlink()
        except OSError as error:
            raise FailedPrecondition(
                f"Expected a folder that can be written for the request log. Received: {options.folder}, {error.strerror}."
            ) from error

    def tidy(self) -> int:
        """Finish the files that dead processes left, and delete the oldest over the limit. Returns how many were finished.

        JSON lines keep their whole lines. Parquet without its end cannot be read, and is deleted.
        """
        finished = 0
        for path in sorted(self._options.folder.glob(f".requests-*{TEMPORARY}")):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is in use
                if not path.stat().st_size:
                    continue  # its owner may be about to lock it
                if path.name.endswith(f".jsonl{TEMPORARY}") and repair_lines(path):
                    path.rename(_final(path))
                    finished += 1
                else:
                    path.unlink()
        self._delete_oldest()
        return finished

    def write(self, records: Sequence[Record]) -> None:
        """Write records, and finish the file where it is full or old."""
        try:
            sink = self._sink or self._open()
        except Exception:
            self.lost += len(records)
            raise
        self._sink = sink
        try:
            self.written += sink.write(records)
        except Exception:
            self._abandon(sink)
            raise
        self.finish(only_due=True)

    def finish(self, *, only_due: bool = False) -> None:
        """Give the file its final name; with `only_due` where it is full or old."""
        sink = self._sink
        if sink is None or (only_due and sink.size < self._options.file_bytes and self._clock() < self._due):
            return
        try:
            readable = sink.finish()
            self._path.rename(_final(self._path))
        except Exception:
            self._abandon(sink)
            raise
        self.written += readable
        self._sink = None
        self._delete_oldest()

    def seconds_left(self) -> float | None:
        """Until the open file is due to be finished by its age; None where none is open."""
        return None if self._sink is None else max(0.0, self._due - self._clock())

    def _open(self) -> Sink:
        options = self._options
        name = f".requests-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}.{options.format}{TEMPORARY}"
        self._path = options.folder / name
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _MODE)
        with suppress(OSError):  # a file system without locks: its files are then never taken for a dead process's
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        payloads = options.payload_bytes is not None
        self._due = self._clock() + options.file_s
        return (JsonLines if options.format == "jsonl" else Parquet)(descriptor, payloads=payloads)

    def _abandon(self, sink: Sink) -> None:
        """Give up a file that failed; JSON lines keep the whole lines that were written."""
        self._sink = None
        self.lost += sink.abandon()
        with suppress(OSError):
            if isinstance(sink, JsonLines) and sink.size:
                self._path.rename(_final(self._path))
            else:
                self._path.unlink()

    def _delete_oldest(self) -> None:
        """Keep the newest finished files within the limit, at least one; other processes may be deleting the same ones."""
        found = self._options.folder.glob("requests-*")
        finished = sorted((path for path in found if _FINISHED.fullmatch(path.name)), reverse=True)
        room = self._options.keep_bytes
        for number, path in enumerate(finished):
            with suppress(OSError):
                room -= path.stat().st_size
                if room < 0 and number:
                    path.unlink()


def _final(path: Path) -> Path:
    """The name of a file that is whole."""
    return path.with_name(path.name.removeprefix(".").removesuffix(TEMPORARY))
