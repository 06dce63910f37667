"""A restricted Boltzmann machine: its likelihood and gradient, its units, and what it makes of rows with holes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.errors import DataError
from services.processing.tabular import TabularProcessor
from training.datasets.tables import Table
from training.environment import import_keras
from training.options import parse
from training.pipeline import Source
from training.pipelines import find
from training.pipelines.rbm import pseudo_likelihood
from training.runner import judge

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import

from training.layers.boltzmann import BoltzmannMachine, Completion, VisibleDecoding, VisibleEncoding  # noqa: E402

RNG = np.random.default_rng(0)
VISIBLE, HIDDEN = 6, 4
TABLE = {
    "age": [31.0, np.nan, 58.0, 44.0, 44.0, 70.0],
    "city": ["Ulm", "Bonn", "Ulm", "Kiel", None, "Kiel"],
    "always": [5.0] * 6,
    "member": [0.0, 1.0, 1.0, 0.0, 1.0, 1.0],
}


def machine_of(*, chains: int = 0, steps: int = 1, visible: int = VISIBLE) -> BoltzmannMachine:
    """A machine with weights that are not small."""
    machine = BoltzmannMachine(HIDDEN, np.full(visible, 0.4), steps=steps, chains=chains, seed=0)
    machine.build((None, visible))
    for weights in (machine.kernel, machine.visible_bias, machine.hidden_bias):
        weights.assign(RNG.standard_normal(weights.shape))
    return machine


def weights_of(machine: BoltzmannMachine) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(each, np.float64) for each in (machine.kernel, machine.visible_bias, machine.hidden_bias))


def all_states(units: int) -> np.ndarray:
    return np.array(np.meshgrid(*[[0.0, 1.0]] * units, indexing="ij"), np.float32).reshape(units, -1).T


def test_the_pseudo_likelihood_is_that_of_each_unit_given_all_others() -> None:
    machine = machine_of()
    kernel, visible_bias, hidden_bias = weights_of(machine)
    states = all_states(VISIBLE)
    energies = states @ visible_bias + np.logaddexp(0, states @ kernel + hidden_bias).sum(axis=1)
    row = 37
    expected = 0.0
    for unit in range(VISIBLE):  # by the joint distribution, summed over the other value of that unit
        other = states[row].copy()
        other[unit] = 1 - other[unit]
        (place,) = np.flatnonzero((states == other).all(axis=1))
        expected += energies[row] - np.logaddexp(energies[row], energies[place])
    assert pseudo_likelihood(states[[row]], kernel, visible_bias, hidden_bias) == pytest.approx(expected)
    assert float(np.asarray(machine(states[[row]]))[0, 0]) == pytest.approx(-expected, rel=1e-5)


def test_the_pseudo_likelihood_is_what_scikit_learn_s_estimates_on_average() -> None:
    from sklearn.neural_network import BernoulliRBM

    rows = RNG.random((40, VISIBLE))  # values between 0 and 1 count as scikit-learn counts them
    theirs = BernoulliRBM(HIDDEN, n_iter=3, random_state=np.random.RandomState(0)).fit(rows)
    estimates = [theirs.score_samples(rows).mean() for _ in range(600)]
    exact = pseudo_likelihood(rows, theirs.components_.T, theirs.intercept_visible_, theirs.intercept_hidden_)
    assert exact == pytest.approx(np.mean(estimates), abs=5 * np.std(estimates) / len(estimates) ** 0.5)


def test_the_gradient_is_the_data_s_statistics_against_the_samples() -> None:
    import tensorflow as tf

    machine = machine_of(chains=16)
    data = (RNG.random((8, VISIBLE)) < 0.5).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(machine(data, training=True))
    got = tape.gradient(loss, machine.kernel.value)
    samples = np.asarray(machine.chains)  # where the chains are now is what the data was held against
    kernel, _, hidden_bias = weights_of(machine)

    def statistics(rows: np.ndarray) -> np.ndarray:
        return rows.T @ (1 / (1 + np.exp(-(rows @ kernel + hidden_bias)))) / len(rows)

    np.testing.assert_allclose(np.asarray(got), statistics(samples) - statistics(data), atol=1e-5)


def test_chains_go_on_from_where_they_were_and_the_data_s_do_not() -> None:
    machine = machine_of(chains=16, steps=3)
    before = np.asarray(machine.chains).copy()
    machine(np.zeros((2, VISIBLE), np.float32), training=True)
    assert set(np.unique(machine.chains)) <= {0.0, 1.0}
    assert not np.array_equal(machine.chains, before)
    assert not hasattr(machine_of(), "chains")


def test_training_learns_which_units_go_together() -> None:
    """Two patterns: units 0 to 2 are on together, or 3 to 5; the other half tells a hidden half exactly."""
    pattern = RNG.random((200, 1)) < 0.5
    rows = np.where(pattern, [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]).astype(np.float32)
    machine = BoltzmannMachine(2, rows.mean(axis=0), steps=1, chains=32, seed=0)
    inputs = keras.Input((VISIBLE,))
    model = keras.Model(inputs, machine(inputs))
    model.compile(keras.optimizers.SGD(0.5), lambda _, answer: answer)
    keras.utils.set_random_seed(0)
    before = float(np.mean(machine(rows)))
    model.fit(rows, np.zeros((200, 1)), epochs=40, batch_size=32, verbose=0)
    assert float(np.mean(machine(rows))) < 0.2 * before
    known = np.tile([True, False, False, False, False, False], (2, 1))
    shown = np.array([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    completed = np.asarray(Completion(machine, rows.mean(axis=0), 20)(shown, known))
    assert completed.round().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("levels", [1, 4])
def test_units_hold_a_row_and_give_it_back(levels: int) -> None:
    processor = TabularProcessor.fit(TABLE)
    features = processor.encode_columns(TABLE)["features"]
    encoding = VisibleEncoding(processor.columns, features, levels=levels)
    units = np.asarray(encoding(features))
    assert units.min() >= 0
    assert units.max() <= 1
    got = np.asarray(VisibleDecoding(encoding)(units))
    present = ~np.isnan(features)
    present[4, 1] = False  # a category that was missing has no unit to say so
    np.testing.assert_allclose(got[present], features[present], rtol=1e-5)
    assert got[1, 0] == pytest.approx(np.nanmean(features[:, 0]), rel=1e-5)
    assert set(encoding.owner.tolist()) == {0, 1, 3}  # a constant column needs no unit


def served(options: list[str], columns: dict[str, Any], fitted: Callable[..., Any], path: Any) -> Any:
    import pandas as pd

    pd.DataFrame(columns).to_csv(path, index=False)
    pipeline: Any = find("rbm")
    return fitted(pipeline, parse(pipeline.options, ["epochs=1", "deterministic=false", *options]), Source(path))


def test_what_is_known_stays_as_it_is_and_the_rest_gets_the_column_s_units(
    fitted: Callable[..., Any], tmp_path: Any
) -> None:
    columns = {name: values * 5 for name, values in TABLE.items() if name != "always"}
    run = served(["hidden=8"], columns, fitted, tmp_path / "table.csv")
    values = np.array([[44.0, 2, 1], [np.nan, 0, 0], [58, 1, 1]], np.float32)
    mask = np.array([[True, True, True], [True, False, False], [False, True, True]])
    rows = np.asarray(run.serving.further["impute"].model({"values": values, "mask": mask})["rows"])
    assert rows[0].tolist() == values[0].tolist()
    assert rows[2, 1:].tolist() == [1, 1]
    assert 31 <= rows[1, 0] <= 70  # not a number is not known, whatever the mask says
    assert 31 <= rows[2, 0] <= 70
    assert rows[1, 1] in (0, 1, 2)
    assert 0 <= rows[1, 2] <= 1


def test_hidden_is_another_name_of_the_default_and_its_file(exported: Callable[[str], Any]) -> None:
    manifest = exported("rbm").exported.manifest
    assert list(manifest.signatures) == ["serving_default", "hidden", "reconstruct", "impute"]
    assert manifest.signatures["hidden"] == manifest.signatures["serving_default"]
    assert manifest.onnx_files == {"reconstruct": "model-reconstruct.onnx", "impute": "model-impute.onnx"}


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_filled_in_whatever_the_mask_says_in_both_formats(
    exported: Callable[[str], Any], strange: float
) -> None:
    published = exported("rbm")
    values = published.rows["features"][:2].copy()
    mask = np.ones(values.shape, bool)
    mask[1, :20] = False
    unknown = mask.copy()
    unknown[0, 5] = False
    asked = values.copy()
    asked[0, 5] = asked[1, 5] = strange  # said to be known in one row, and not in the other
    for backend in published.backends.values():
        (want,) = backend.run("impute", {"values": values, "mask": unknown}, ()).values()
        (got,) = backend.run("impute", {"values": asked, "mask": mask}, ()).values()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_report_s_figures_stand_beside_scikit_learn_s(fitted: Callable[..., Any]) -> None:
    """Digits, a few epochs: the features and the likelihood are no worse than those of as many units and epochs there."""
    pipeline: Any = find("rbm")
    options = parse(pipeline.options, ["epochs=8", "deterministic=false"])
    run = fitted(pipeline, options)
    test, outputs, metrics = judge(pipeline, run.trained, run.test, options)
    baseline = pipeline.baseline(run.train, test, options)
    assert set(metrics) == set(baseline.metrics) == {"accuracy", "pseudo_likelihood", "impute_error"}
    assert metrics["accuracy"] >= baseline.metrics["accuracy"]
    assert metrics["pseudo_likelihood"] >= baseline.metrics["pseudo_likelihood"]
    assert metrics["impute_error"] < 0.9 * baseline.metrics["impute_error"]
    titles = [plot.title for plot in pipeline.figures(outputs, test, run.serving, options)]
    assert titles == ["What hidden units look at", "Held-out pictures", "Hidden units", "Imputation"]


def test_a_table_in_which_nothing_varies_is_refused() -> None:
    pipeline: Any = find("rbm")
    options = pipeline.options()
    table = Table({"a": np.ones(20)})
    processor = pipeline.fit_processor(table, options)
    with pytest.raises(DataError, match="a column that varies"):
        pipeline.build(pipeline.examples(table, processor, options), processor, options)
