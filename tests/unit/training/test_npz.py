"""NPZ archives: plain arrays, and what is none."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from services.errors import DataError
from training.datasets.npz import open_npz


def single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def damaged() -> bytes:
    """An archive whose one compressed array was changed after it was written."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(100.0))
    with zipfile.ZipFile(buffer) as archive:
        start = archive.infolist()[0].header_offset + 60
    content = bytearray(buffer.getvalue())
    content[start : start + 40] = b"x" * 40
    return bytes(content)


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(3), y=np.ones(2))

    with open_npz(tmp_path / "rows.npz") as archive:
        arrays = dict(archive)

    assert {name: array.tolist() for name, array in arrays.items()} == {"x": [0, 1, 2], "y": [1.0, 1.0]}


@pytest.mark.parametrize("content", [b"", b"no such format", b"PK\x03\x04" + b"x" * 50, single_array(), damaged()])
def test_a_file_that_is_no_such_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)

    with pytest.raises(DataError, match=r"rows\.npz: expected an NPZ"), open_npz(tmp_path / "rows.npz") as archive:
        dict(archive)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([object()]))

    with pytest.raises(DataError, match="plain arrays"), open_npz(tmp_path / "rows.npz") as archive:
        archive["x"]
