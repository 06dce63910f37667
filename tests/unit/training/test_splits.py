"""Which rows are held out: no class is missing from a part, whatever the shares."""

import numpy as np
import pytest

from services.errors import DataError
from training.pipeline import CommonOptions
from training.splits import random_split, stratified_split, time_split


@pytest.mark.parametrize("rows", [3, 4, 5, 7])
@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.15), (0.01, 0.01), (0.9, 0.9)])
def test_a_class_of_three_rows_is_in_every_part(rows: int, test: float, validation: float) -> None:
    targets = np.repeat([0, 1], [50, rows])
    split = stratified_split(targets, CommonOptions(test_share=test, validation_share=validation))
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts)) == list(range(50 + rows))
    assert all(set(targets[part]) == {0, 1} for part in parts)


def test_a_class_of_one_row_is_learnt_from() -> None:
    split = stratified_split(np.repeat([0, 1], [50, 1]), CommonOptions())
    assert 50 in split.train


def test_too_few_rows_for_three_parts_are_refused() -> None:
    for cut in (lambda: random_split(2, CommonOptions()), lambda: time_split(2, CommonOptions())):
        with pytest.raises(DataError, match="at least one row in each part"):
            cut()
