"""Whether every class has rows enough to be learnt and judged by."""

from collections.abc import Callable, Sequence

import numpy as np

from services.errors import DataError

LEAST_ROWS = 3
"""Rows of a class: one each to train on, to stop by and to judge by. `training.splits` deals them out so."""
_MOST_NAMED = 5


def check_classes(
    where: str, labels: Sequence[str], targets: np.ndarray, listed: Callable[[np.ndarray], str], *, hint: str = ""
) -> None:
    """Raises DataError for one class alone, and where a class has too few rows, naming each such class and its rows.

    `targets` int64 `[rows]` are indices into `labels`; `listed` says where rows lie; `where` is the file, and the column if
    there is one.
    """
    counts = np.bincount(targets, minlength=len(labels))
    if np.count_nonzero(counts) < 2:
        raise DataError(f"{where}: expected at least two classes. Found only {labels[int(counts.argmax())]!r}.")
    rare = np.flatnonzero(counts < LEAST_ROWS)
    if len(rare):
        found = [
            f"{labels[label]!r} {_times(counts[label])} ({listed(np.flatnonzero(targets == label))})"
            for label in rare[:_MOST_NAMED]
        ]
        more = f" and {len(rare) - _MOST_NAMED} more" if len(rare) > _MOST_NAMED else ""
        raise DataError(
            f"{where}: expected at least {LEAST_ROWS} rows of every class, one each for training, validation and test. "
            f"Found {', '.join(found)}{more}, of {len(labels)} classes.{hint}"
        )


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}[int(count)]
