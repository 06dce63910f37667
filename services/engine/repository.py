"""What is on disk: models and their versions.

    <repository>/<name>/<version>/     manifest.json, model.onnx, saved_model.pb, variables/, ...

A version is a folder whose name is a positive integer (leading zeros are fine) and that holds a model file or a manifest;
everything else is skipped: `.tmp-*` folders of an export in progress, files, other names. A version that is published again
under its own number is not noticed while it is loaded: publish the next number.
"""

from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from services.manifest import MANIFEST_FILE, ONNX_FILE, SAVED_MODEL_FILE

_SIGNS_OF_A_VERSION = (MANIFEST_FILE, ONNX_FILE, SAVED_MODEL_FILE)
_LARGEST = 2**63 - 1  # versions are int64 on the wire


@dataclass(frozen=True, slots=True)
class VersionDirectory:
    """One version on disk. `stamp` changes when its model file or manifest does."""

    version: int
    path: Path
    stamp: tuple[int, ...] = ()


def scan_model(path: Path) -> dict[int, VersionDirectory] | None:
    """The versions below a model's folder, by number; None where the folder cannot be read (which is not the same as empty).

    Of two names of one number (`3`, `03`) the last in the order of names counts.
    """
    try:
        entries = sorted(path.iterdir())
    except OSError:
        return None
    found = {}
    for entry in entries:
        version = version_number(entry.name)
        stamp = () if version is None else _stamp(entry)
        if version is not None and stamp:
            found[version] = VersionDirectory(version, entry, stamp)
    return found


def scan_repository(repository: Path) -> dict[str, Path] | None:
    """The folders that hold at least one version, by model name; None where the repository cannot be read."""
    try:
        entries = sorted(repository.iterdir())
    except OSError:
        return None
    return {entry.name: entry for entry in entries if not entry.name.startswith(".") and scan_model(entry)}


def version_number(name: str) -> int | None:
    """The version that a folder's name stands for; None for a name that is no version's."""
    if not (name.isascii() and name.isdigit()):
        return None
    version = int(name) if len(name) < 40 else _LARGEST + 1
    return version if 0 < version <= _LARGEST else None


def _stamp(path: Path) -> tuple[int, ...]:
    """Modification times and sizes of the files that make a folder a version; empty where there is none of them."""
    stamp: list[int] = []
    for name in _SIGNS_OF_A_VERSION:
        try:
            status = (path / name).stat()
        except OSError:
            continue
        if S_ISREG(status.st_mode):
            stamp += (status.st_mtime_ns, status.st_size)
    return tuple(stamp)
