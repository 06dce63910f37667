import numpy as np
import pytest

from services.loadtest.histogram import RELATIVE_ERROR, Histogram


def filled(values) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9])
def test_percentiles_are_within_the_stated_error(percent: float) -> None:
    values = np.random.default_rng(0).lognormal(-6, 1.2, 20_000)

    found = filled(values.tolist()).percentile_s(percent)

    exact = np.percentile(values, percent, method="inverted_cdf")
    assert found == pytest.approx(exact, rel=RELATIVE_ERROR)


def test_least_greatest_and_mean_are_exact() -> None:
    summary = filled([0.001, 0.002, 0.0093]).summary_ms()

    assert (summary["min"], summary["max"], summary["mean"]) == (1.0, 9.3, 4.1)


def test_without_values_nothing_is_claimed() -> None:
    assert set(Histogram().summary_ms().values()) == {None}


def test_adding_two_is_recording_all() -> None:
    low, high = [0.001 * i for i in range(1, 50)], [0.1 * i for i in range(1, 50)]
    both = filled(low)
    both.add(filled(high))

    assert both.summary_ms() == filled(low + high).summary_ms()
    assert sum(both.to_json()["counts"]) == 98


def test_times_below_a_microsecond_are_counted() -> None:
    assert filled([0.0, 1e-9]).percentile_s(50) == pytest.approx(0.0, abs=1e-6)
