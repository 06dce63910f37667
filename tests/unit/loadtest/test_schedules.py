import itertools

import numpy as np
import pytest

from services.loadtest.schedules import constant, poisson


def test_a_constant_schedule_is_evenly_spaced_and_does_not_drift() -> None:
    due = list(itertools.islice(constant(3.0), 3001))

    assert due[:4] == [0.0, 1 / 3, 2 / 3, 1.0]
    assert due[3000] == 1000.0


def test_a_poisson_schedule_has_the_rate_and_the_spread_of_its_process() -> None:
    due = np.array(list(itertools.islice(poisson(50.0, np.random.default_rng(1)), 50_000)))
    gaps = np.diff(due)

    assert due[-1] == pytest.approx(1000.0, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert (gaps > 0).all()


def test_a_poisson_schedule_is_repeated_by_its_seed() -> None:
    first, again, other = (list(itertools.islice(poisson(5.0, np.random.default_rng(seed)), 5)) for seed in (7, 7, 8))

    assert first == again
    assert first != other
