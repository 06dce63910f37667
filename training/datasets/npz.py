"""NPZ archives of plain arrays."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from services.errors import DataError


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an archive by name; each is read when it is asked for, so that what nobody wants costs nothing.

    Raises DataError for a file that is no such archive, or holds Python objects, also from within the block.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise DataError(
                    f"{path.name}: expected an NPZ archive of plain arrays. Received: a single array, as in NPY."
                )
            with archive:
                yield archive
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name}: expected an NPZ archive of plain arrays. Received: {error}.") from error
