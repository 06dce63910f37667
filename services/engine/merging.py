"""The arrays of a batch: pieces of requests merged into one run, and its answer cut into theirs.

Pure functions over numpy, called from the loop or from a worker thread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from services.errors import CornetError, Internal
from services.telemetry.log import get_logger

Arrays: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[Arrays, tuple[str, ...]], dict[str, np.ndarray]]
"""A backend's `run` for one signature: inputs and the names of the wanted outputs to the outputs."""

Result: TypeAlias = dict[str, np.ndarray] | CornetError

_log = get_logger(__name__)


class Piece:
    """Rows `start` to `stop` of one request, of whose inputs there are `total`; `owner` is the request."""

    __slots__ = ("inputs", "owner", "start", "stop", "total")

    def __init__(self, owner: Any, inputs: Arrays, start: int, stop: int, total: int) -> None:
        self.owner = owner
        self.inputs = inputs
        self.start = start
        self.stop = stop
        self.total = total

    def rows(self) -> Arrays:
        """The inputs of these rows: the request's own arrays where they are all of it, else views."""
        if self.start == 0 and self.stop == self.total:
            return self.inputs
        return {name: array[self.start : self.stop] for name, array in self.inputs.items()}


def run_pieces(run: Run, pieces: Sequence[Piece], outputs: tuple[str, ...], padded_rows: int = 0) -> list[Result]:
    """Run pieces as one batch: one result per piece, in order. Never raises.

    `padded_rows`, where it is more than the rows there are, is the size the batch is filled up to; the filling repeats the
    last row and its answers are dropped. A batch that fails is run again piece by piece: one request's values must not cost
    its neighbours their answers.
    """
    try:
        rows = sum(piece.stop - piece.start for piece in pieces)
        answer = run(_merge(pieces, padded_rows - rows), outputs)
        if len(pieces) == 1 and padded_rows <= rows:
            return [answer]
        return list(_split(answer, pieces, max(rows, padded_rows)))
    except Exception as error:  # noqa: BLE001  # reported: it becomes the pieces' result
        if len(pieces) == 1:
            return [as_error(error)]
    return [result for piece in pieces for result in run_pieces(run, [piece], outputs)]


def as_error(error: BaseException) -> CornetError:
    """What a client is told of an exception; one that is not ours goes to the log."""
    if isinstance(error, CornetError):
        return error
    _log.error("a batch failed", cause=error)
    return Internal("The batch could not be run; the server's log has the cause.")


def expect_rows(answer: Arrays, rows: int) -> None:
    """Raise Internal where an output does not have as many rows as went in."""
    for name, array in answer.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise Internal(f"{name}: expected {rows} rows, as many as went in. Received: shape {list(array.shape)}.")


def join(parts: Mapping[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The answer of a request that was cut, from the answers of its pieces by their first row."""
    ordered = [parts[start] for start in sorted(parts)]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}


def _merge(pieces: Sequence[Piece], padding: int) -> Arrays:
    if len(pieces) == 1 and padding <= 0:
        return pieces[0].rows()
    parts = [piece.rows() for piece in pieces]
    merged = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if padding > 0:
            arrays.append(np.repeat(arrays[-1][-1:], padding, axis=0))
        merged[name] = np.concatenate(arrays)
    return merged


def _split(answer: Arrays, pieces: Sequence[Piece], rows: int) -> list[dict[str, np.ndarray]]:
    """Views of the answer, one per piece. Raises Internal where an output does not have the batch's rows."""
    expect_rows(answer, rows)
    results = []
    first = 0
    for piece in pieces:
        last = first + piece.stop - piece.start
        results.append({name: array[first:last] for name, array in answer.items()})
        first = last
    return results
