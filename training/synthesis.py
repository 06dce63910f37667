"""Draw new rows of one class of a table, out of a restricted Boltzmann machine that has learnt that class's rows.

    drawn = synthesize(table, "fraud", rows=500, options=SynthesisOptions(), seed=0)
    drawn.columns["amount"]          # as the table has them: units, categories, whole numbers where all were whole

A machine per class, and not one with the class among its units: of a rare class such a unit is on so seldom that it is
learnt last and worst. A class's own machine has nothing else to learn. Numeric columns have several units each (see
`VisibleEncoding`), so that a column with two peaks keeps both.

Rows are drawn by Gibbs sampling, a chain per row, from rows of the class. They are as good as the machine, which knows the
class by as many rows as there are: `Likeness` says how near they are, and how many are no more than copies.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from services.errors import DataError
from services.processing.tabular import Column, TabularProcessor
from training.datasets.cells import Columns
from training.datasets.tables import Table
from training.options import Bounds
from training.pipelines.rbm import PIPELINE, Options
from training.tabular import TabularExamples

if TYPE_CHECKING:
    from training.layers.boltzmann import VisibleEncoding

LEAST_ROWS = 10
"""Fewer rows of a class say too little about it."""
_CHAINS = 16_384
"""Chains run at a time: more would take more memory, and no less time."""
_NEVER = 1e-12
"""Added to a category's probability: of a group of zeros one is drawn all the same."""


@dataclass(frozen=True)
class SynthesisOptions(Options):
    """Options of the machine that rows are drawn from."""

    epochs: Annotated[int, Bounds(1)] = 300
    """Epochs to train; there is no early stopping, as every row of a rare class is learnt from."""
    batch_size: Annotated[int, Bounds(1)] = 16
    """Rows per gradient step, and the number of persistent chains."""
    learning_rate: Annotated[float, Bounds(0, open_low=True)] = 0.5
    """Step size of gradient descent."""
    hidden: Annotated[int, Bounds(1)] = 32
    """Hidden units."""
    levels: Annotated[int, Bounds(1, 64)] = 8
    """Units of a numeric column, for its place among as many quantiles."""
    sweeps: Annotated[int, Bounds(1, 100_000)] = 200
    """Gibbs steps of each drawn row, from a row of the class."""


@dataclass(frozen=True)
class Likeness:
    """How near drawn rows are to the class's own.

    `mean_shift`: distance of the means, averaged over numeric columns, in spreads. `spread_ratio`: median of drawn over real
    spread. `correlation_shift`: mean distance of the columns' pair correlations. `copies`: share of drawn rows that are a
    real row again.
    """

    mean_shift: float
    spread_ratio: float
    correlation_shift: float
    copies: float


def synthesize(table: Table, label: str, *, rows: int, options: SynthesisOptions) -> Columns:
    """So many new rows of a class, by column. Raises DataError for an unknown class, one too small, or without variation."""
    if label not in table.labels:
        raise DataError(f"Expected a class out of {', '.join(table.labels)}. Received: {label!r}.")
    members = _class_rows(table, label)
    if len(members) < LEAST_ROWS:
        raise DataError(f"Expected at least {LEAST_ROWS} rows of {label!r} to learn from. Found {len(members)}.")
    processor = TabularProcessor.fit(members.columns)  # its own categories, and no others
    inputs = processor.encode_columns(members.columns)
    targets = np.zeros((len(members), 1), np.float32)
    examples = TabularExamples(inputs, targets, columns=processor.columns)

    from training.environment import import_keras

    import_keras(options.seed, deterministic=options.deterministic)
    model = PIPELINE.build(examples, processor, options)
    model.fit(inputs, targets, epochs=options.epochs, batch_size=options.batch_size, verbose=0)
    sampler = _Sampler(model.get_layer("machine"), model.get_layer("encoding"), np.random.default_rng(options.seed))
    start = np.asarray(model.get_layer("encoding")(inputs["features"]))
    return _decoded(sampler.draw(start, rows, options.sweeps), processor.columns, members.columns)


def likeness(table: Table, label: str, drawn: Columns) -> Likeness:
    """Compare drawn rows with the class's own; figures of numeric columns are 0 where there are none that vary."""
    real = _class_rows(table, label).columns
    known = {_key(real, row) for row in range(len(next(iter(real.values()))))}
    count = len(next(iter(drawn.values())))
    copies = sum(_key(drawn, row) in known for row in range(count)) / count
    numeric = [name for name, values in real.items() if values.dtype != object and np.nanstd(values) > 0]
    if not numeric:
        return Likeness(0.0, 1.0, 0.0, copies)
    before, after = (np.stack([part[name] for name in numeric], axis=1) for part in (real, drawn))
    spread = np.nanstd(before, axis=0)
    shift = np.abs(np.nanmean(after, axis=0) - np.nanmean(before, axis=0)) / spread
    ratio = float(np.median(after.std(axis=0) / spread))
    return Likeness(float(shift.mean()), ratio, _correlation_shift(before, after), copies)


class _Sampler:
    """Gibbs sampling in numpy: weights of a trained machine, and the groups of units that stand for one category each."""

    def __init__(self, machine: Any, encoding: "VisibleEncoding", rng: np.random.Generator) -> None:
        self._kernel, self._visible_bias, self._hidden_bias = (
            np.asarray(each, np.float64) for each in (machine.kernel, machine.visible_bias, machine.hidden_bias)
        )
        self._encoding = encoding
        self._rng = rng
        start = len(encoding.place)
        self._groups = []
        for count in encoding.categories.values():
            self._groups.append(slice(start, start + count))
            start += count

    def draw(self, start: np.ndarray, rows: int, sweeps: int) -> np.ndarray:
        """Features f64 `[rows, F]`, with category indices: a chain per row, each from a row of `start`, taken at random."""
        sizes = [min(_CHAINS, rows - done) for done in range(0, rows, _CHAINS)]
        return np.concatenate([self._features(self._chains(start, size, sweeps)) for size in sizes])

    def _chains(self, start: np.ndarray, count: int, sweeps: int) -> np.ndarray:
        units = self._visible(start[self._rng.integers(len(start), size=count)])
        for _ in range(sweeps):
            hidden = self._bits(_sigmoid(units @ self._kernel + self._hidden_bias))
            units = self._visible(_sigmoid(hidden @ self._kernel.T + self._visible_bias))
        return units

    def _bits(self, probabilities: np.ndarray) -> np.ndarray:
        return (self._rng.random(probabilities.shape) < probabilities).astype(np.float64)

    def _visible(self, probabilities: np.ndarray) -> np.ndarray:
        """Visible units drawn by their probabilities; of a group exactly one is on."""
        drawn = self._bits(probabilities)
        for group in self._groups:
            weights = probabilities[:, group] + _NEVER
            place = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
            chosen = (self._rng.random((len(drawn), 1)) > place).sum(axis=1)
            drawn[:, group] = np.eye(weights.shape[1])[np.minimum(chosen, weights.shape[1] - 1)]
        return drawn

    def _features(self, units: np.ndarray) -> np.ndarray:
        """A numeric column's value lies where as many of its units are on: anywhere half an interval around that quantile."""
        encoding = self._encoding
        features = np.zeros((len(units), len(encoding.numeric) + len(encoding.categories)))
        for place, column in enumerate(encoding.numeric):
            own = np.flatnonzero(encoding.place == place)
            edges = encoding.lowest[place] + np.concatenate([[0], np.cumsum(encoding.width[own])])
            position = units[:, own].sum(axis=1) + self._rng.random(len(units)) - 0.5
            features[:, column] = np.interp(position, np.arange(len(edges)), edges)
        for column, group in zip(encoding.categories, self._groups, strict=True):
            features[:, column] = units[:, group].argmax(axis=1)
        return features


def _class_rows(table: Table, label: str) -> Table:
    return table.take(np.flatnonzero(table.target == table.labels.index(label)))


def _decoded(features: np.ndarray, columns: tuple[Column, ...], real: Columns) -> Columns:
    """Features as the table's columns: categories by name, whole numbers where all of the class's are."""
    decoded: Columns = {}
    for index, column in enumerate(columns):
        values = features[:, index]
        if column.kind == "categorical":
            decoded[column.name] = np.array([column.categories[int(code)] for code in values], object)
            continue
        known = real[column.name].astype(np.float64)
        known = known[~np.isnan(known)]
        whole = np.array_equal(known, np.rint(known))
        decoded[column.name] = np.rint(values).astype(np.int64) if whole else values
    return decoded


def _correlation_shift(before: np.ndarray, after: np.ndarray) -> float:
    if before.shape[1] < 2:
        return 0.0
    filled = np.where(np.isnan(before), np.nanmean(before, axis=0), before)
    varying = after.std(axis=0) > 0
    if varying.sum() < 2:
        return 1.0
    pairs = [np.corrcoef(part[:, varying], rowvar=False) for part in (filled, after)]
    return float(np.abs(pairs[0] - pairs[1])[np.triu_indices(int(varying.sum()), 1)].mean())


def _key(columns: Columns, row: int) -> tuple[Any, ...]:
    cells = (values[row] for values in columns.values())
    return tuple(cell if cell is None or isinstance(cell, str) else f"{cell:.6g}" for cell in cells)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))
