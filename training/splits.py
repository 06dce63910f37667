"""Cutting rows into train, validation and test, before anything is fitted."""

from typing import Protocol, Self, TypeVar

import numpy as np

from services.errors import DataError
from training.datasets.classes import LEAST_ROWS
from training.pipeline import CommonOptions, Split


class Takeable(Protocol):
    """Data in rows that can be picked by index."""

    def take(self, rows: np.ndarray, /) -> Self:
        """The rows at the given indices, in that order."""


DataT = TypeVar("DataT", bound=Takeable)


def cut(data: DataT, rows: Split[np.ndarray]) -> Split[DataT]:
    """The three parts of the data that hold those rows."""
    return Split(data.take(rows.train), data.take(rows.validation), data.take(rows.test))


def stratified_split(targets: np.ndarray, options: CommonOptions) -> Split[np.ndarray]:
    """Row indices of the three parts, each class dealt out in the same shares; shuffled, and repeatable by the seed.

    `targets` is integer `[rows]`. A class of three rows at least is in every part; a smaller one stays in the training part
    first (`training.datasets.classes` refuses it where classes are learnt). Raises DataError where a part would have no row.
    """
    random = np.random.default_rng(options.seed)
    parts: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    for label in np.unique(targets):
        rows = random.permutation(np.flatnonzero(targets == label))
        test, validation = _sizes(len(rows), options)
        if len(rows) >= LEAST_ROWS:
            test, validation = _one_each(len(rows), test, validation)
        cuts = np.split(rows, [len(rows) - test - validation, len(rows) - test])
        for part, cut in zip(parts, cuts, strict=True):
            part.append(cut)
    return _checked(Split(*(random.permutation(np.concatenate(part)) for part in parts)), len(targets))


def random_split(rows: int, options: CommonOptions) -> Split[np.ndarray]:
    """Row indices of the three parts, for targets that are no classes. Raises DataError where a part would have no row."""
    return stratified_split(np.zeros(rows, np.int64), options)


def time_split(rows: int, options: CommonOptions) -> tuple[int, int]:
    """Where validation and test begin in rows that are ordered in time. Raises DataError where a part would have no row."""
    test, validation = _sizes(rows, options)
    order = np.arange(rows)
    _checked(Split(*np.split(order, [rows - test - validation, rows - test])), rows)
    return rows - test - validation, rows - test


def _sizes(rows: int, options: CommonOptions) -> tuple[int, int]:
    test = round(rows * options.test_share)
    return test, round((rows - test) * options.validation_share)


def _one_each(rows: int, test: int, validation: int) -> tuple[int, int]:
    """Sizes near those two that leave no part without a row; there are three rows at least."""
    test = min(max(test, 1), rows - 2)
    return test, min(max(validation, 1), rows - test - 1)


def _checked(split: Split[np.ndarray], rows: int) -> Split[np.ndarray]:
    counts = {name: len(getattr(split, name)) for name in ("train", "validation", "test")}
    if not all(counts.values()):
        received = ", ".join(f"{count} for {name}" for name, count in counts.items())
        raise DataError(f"Expected at least one row in each part. Received: {rows} rows, which leave {received}.")
    return split
