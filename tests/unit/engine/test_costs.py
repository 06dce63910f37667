import numpy as np
import pytest

from services.engine.costs import CostTable, elements_of


def test_an_unmeasured_model_costs_without_limit():
    assert CostTable().estimate(1) == float("inf")


def test_a_size_is_remembered_by_its_power_of_two():
    costs = CostTable()
    costs.observe(100, 0.5)
    assert costs.estimate(64) == costs.estimate(127) == 0.5


def test_a_smaller_size_costs_at_most_what_the_next_larger_did():
    costs = CostTable()
    costs.observe(100, 0.5)
    costs.observe(1000, 3.0)
    assert costs.estimate(10) == 0.5


def test_a_larger_size_costs_in_proportion():
    costs = CostTable()
    costs.observe(100, 0.5)
    assert costs.estimate(1000) == pytest.approx(0.5 * 8)


def test_an_interrupted_run_hardly_counts():
    costs = CostTable()
    costs.observe(1, 1e-5)
    costs.observe(1, 10.0)
    assert costs.estimate(1) == pytest.approx(1.2e-5)


def test_a_lasting_change_is_learnt_both_ways():
    costs = CostTable()
    costs.observe(1, 0.001)
    for _ in range(60):
        costs.observe(1, 0.5)
    assert costs.estimate(1) == pytest.approx(0.5, rel=0.05)
    for _ in range(60):
        costs.observe(1, 0.001)
    assert costs.estimate(1) == pytest.approx(0.001, rel=0.05)


def test_elements_are_counted_over_all_inputs():
    assert elements_of({"a": np.zeros((2, 3)), "b": np.zeros(4)}) == 10
