"""A restricted Boltzmann machine over the rows of a table: features, reconstructions and completions without a target."""

import warnings
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from services.errors import DataError, InvalidArgument
from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.tables import Table, bundled, load_table
from training.evaluation import new_figure
from training.optimization import OptimizerName, ScheduleName, answer_itself, optimizer
from training.options import Bounds, Search
from training.pipeline import (
    Arrays,
    Ask,
    Baseline,
    Endpoint,
    Examples,
    Loaded,
    Plot,
    ServingModel,
    Source,
    Split,
    Trained,
)
from training.splits import cut, random_split, stratified_split
from training.tabular import TableOptions, TabularExamples, TabularPipeline, columns_of, signature, tabular

if TYPE_CHECKING:
    import keras

_HIDDEN_SHARE = 0.3
"""Share of the cells that are hidden from `impute` where its figures are taken, and its export is proven."""
_FILTERS_SHOWN = 24
_PICTURES_SHOWN = 10
_CELLS_SHOWN = 2000
_HOLE = "#f0b48c"
"""Colour of a cell that is not known: no grey is mistaken for it."""


@dataclass(frozen=True)
class Options(TableOptions):
    """Options of the restricted Boltzmann machine."""

    epochs: Annotated[int, Bounds(1)] = 60
    """Most epochs to train; early stopping may end sooner."""
    learning_rate: Annotated[float, Bounds(0, open_low=True), Search(0.03, 1, log=True)] = 0.3
    """Step size of gradient descent."""
    batch_size: Annotated[int, Bounds(1), Search(5, 50, log=True)] = 10
    """Rows per gradient step, and the number of persistent chains."""
    patience: Annotated[int, Bounds(1)] = 15
    """Epochs without a better validation pseudo-likelihood before training stops; the best weights are kept."""
    hidden: Annotated[int, Bounds(1), Search(16, 256, log=True)] = 64
    """Hidden units: the features that a row is turned into."""
    steps: Annotated[int, Bounds(1, 100), Search(1, 5)] = 1
    """Gibbs steps to the samples that a row is contrasted with: the k of CD-k."""
    persistent: bool = True
    """Take the samples' steps from where they ended before (persistent CD), and not from the data."""
    optimizer: OptimizerName = "sgd"
    """How a gradient becomes a step."""
    schedule: ScheduleName = "cosine"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    levels: Annotated[int, Bounds(1, 64)] = 1
    """Units of a numeric column: 1 for its place between minimum and maximum, more for its place among as many quantiles."""
    impute_steps: Annotated[int, Bounds(1, 200)] = 20
    """Mean-field steps in which `impute` settles what is not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixed_precision:
            raise InvalidArgument(
                "Option mixed_precision: expected false. A restricted Boltzmann machine has one layer, which sees the data "
                "and draws samples: it stays in float32. Received: true."
            )


@dataclass(frozen=True)
class Equipped(TabularExamples):
    """Held-out rows, and what the machine is judged by.

    `readout` is a logistic model of the training rows' features, None without classes; `known` bool `[rows, F]` says which
    cells `impute` is given; `spread` f64 `[rows, F]` is that of the column in the training rows, the same in every row.
    """

    readout: Any = None
    known: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool))
    spread: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class Rbm(TabularPipeline[Options]):
    """Bernoulli visible and hidden units. The target, where there is one, is not learnt: it judges the features."""

    family: ClassVar[str] = "rbm"
    task: ClassVar[str] = "tabular_features"
    summary: ClassVar[str] = (
        "Restricted Boltzmann machine (CD-k, persistent CD): features, reconstruction, imputation; "
        "default data: scikit-learn digits, a column per pixel"
    )
    options = Options
    primary_metric: ClassVar[str] = "accuracy"

    def load(self, source: Source, options: Options) -> Loaded[Table]:
        if source.path is None:
            return _digits()
        return load_table(source, "optional class", **options.reading)

    def split(self, data: Table, options: Options) -> Split[Table]:
        rows = random_split(len(data), options) if data.target is None else stratified_split(data.target, options)
        return cut(data, rows)

    def targets(self, data: Table, options: Options) -> tuple[np.ndarray, tuple[str, ...]]:
        return np.zeros(len(data), np.int64) if data.target is None else data.target, data.labels

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        """From features to each row's negative log pseudo-likelihood `[B, 1]`. Raises DataError where no column varies."""
        import keras

        from training.layers.boltzmann import BoltzmannMachine, VisibleEncoding

        columns = tabular(processor).columns
        encoding = VisibleEncoding(columns, train.inputs["features"], levels=options.levels)
        if not encoding.units:
            raise DataError("Expected a column that varies. Received: none.")
        features = keras.Input((len(columns),), name="features")
        mean = np.asarray(encoding(train.inputs["features"])).mean(axis=0)
        chains = min(options.batch_size, len(train)) if options.persistent else 0
        machine = BoltzmannMachine(options.hidden, mean, steps=options.steps, chains=chains, seed=options.seed)
        model = keras.Model({"features": features}, machine(encoding(features)), name=self.family)
        model.compile(optimizer(options, len(train)), answer_itself)
        return model

    def to_learn(self, part: Examples, train: Examples, options: Options) -> Examples:
        return replace(part, targets=np.zeros((len(part), 1), np.float32))

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        from training.layers.boltzmann import Completion, HiddenUnits, Reconstruction, VisibleDecoding

        count = len(tabular(processor).columns)
        encoding, machine = model.get_layer("encoding"), model.get_layer("machine")
        mean = np.asarray(encoding(train.inputs["features"])).mean(axis=0)
        features, values = keras.Input((count,), name="features"), keras.Input((count,), name="values")
        mask = keras.Input((count,), dtype="bool", name="mask")
        visible, decode = encoding(features), VisibleDecoding(encoding)
        nan, infinite = keras.ops.isnan(values), keras.ops.isinf(values)
        known = keras.ops.logical_and(mask, keras.ops.logical_not(keras.ops.logical_or(nan, infinite)))
        # Where it is not told of them by the condition itself, tf2onnx selects by products, and 0 times these is no number.
        numbers = keras.ops.where(infinite, 0.0, keras.ops.where(nan, 0.0, values))
        units = Completion(machine, mean, options.impute_steps)(
            encoding(numbers), keras.ops.take(known, encoding.owner, axis=1)
        )
        rows = keras.ops.where(known, numbers, decode(units))
        hidden = keras.Model({"features": features}, {"hidden": HiddenUnits(machine)(visible)}, name="hidden")
        rebuilt = {"reconstruction": decode(Reconstruction(machine)(visible))}
        encode = Endpoint(hidden, signature(count, _spec("hidden", options.hidden)))
        completed = Signature(
            (_spec("values", count), TensorSpec("mask", BY_NAME["bool"], (DYNAMIC, count))), (_spec("rows", count),)
        )
        further = {
            "hidden": encode,
            "reconstruct": Endpoint(
                keras.Model({"features": features}, rebuilt), signature(count, _spec("reconstruction", count))
            ),
            "impute": Endpoint(keras.Model({"values": values, "mask": mask}, {"rows": rows}), completed, _with_holes),
        }
        return ServingModel(encode.model, encode.signature, further=further)

    def equip(self, ask: Ask, train: Examples, test: Examples, options: Options) -> Examples:
        readout = None
        if len(np.unique(train.targets)) > 1:
            readout = _readout(ask(train.inputs)["hidden"], train.targets)
        known = _with_holes(test.inputs)["mask"]
        members = {each.name: getattr(test, each.name) for each in fields(TabularExamples)}
        return Equipped(**members, readout=readout, known=known, spread=np.tile(_spread(train), (len(test), 1)))

    def questions(self, test: Examples) -> dict[str, Arrays]:
        return {"impute": _with_holes(test.inputs)}

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        """Accuracy of a logistic model on the features, where there is a class, and the error of what `impute` filled in."""
        if not isinstance(test, Equipped):
            return {}
        metrics = {}
        if test.readout is not None:
            metrics["accuracy"] = float(test.readout.score(outputs["hidden"], test.targets))
        if "rows" in outputs:
            metrics["impute_error"] = _impute_error(outputs["rows"], test, test.known, test.spread)
        return metrics

    def examine(self, trained: Trained, test: Examples, options: Options) -> dict[str, float]:
        machine, encoding = trained.model.get_layer("machine"), trained.model.get_layer("encoding")
        weights = (np.asarray(each) for each in (machine.kernel, machine.visible_bias, machine.hidden_bias))
        return {"pseudo_likelihood": pseudo_likelihood(np.asarray(encoding(test.inputs["features"])), *weights)}

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        """scikit-learn's machine over the same units, with as many hidden ones and epochs; the mean for `impute`."""
        from sklearn.neural_network import BernoulliRBM

        from training.layers.boltzmann import VisibleEncoding

        encoding = VisibleEncoding(columns_of(train), train.inputs["features"], levels=options.levels)
        visible, held_out = (np.asarray(encoding(part.inputs["features"])) for part in (train, test))
        machine = BernoulliRBM(options.hidden, n_iter=options.epochs, random_state=options.seed).fit(visible)
        metrics: dict[str, float] = {}
        if len(np.unique(train.targets)) > 1:
            readout = _readout(machine.transform(visible), train.targets)
            metrics["accuracy"] = float(readout.score(machine.transform(held_out), test.targets))
        weights = machine.components_.T, machine.intercept_visible_, machine.intercept_hidden_
        metrics["pseudo_likelihood"] = pseudo_likelihood(held_out, *weights)
        metrics["impute_error"] = _impute_error(
            _usual_row(train), test, _with_holes(test.inputs)["mask"], _spread(train)
        )
        return Baseline("scikit-learn's BernoulliRBM; for impute, mean or most frequent", metrics)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        plots = [_activity_plot(outputs["hidden"]), _impute_plot(outputs["rows"], test)]
        return [*_picture_plots(outputs["rows"], serving, test), *plots]


def pseudo_likelihood(
    visible: np.ndarray, kernel: np.ndarray, visible_bias: np.ndarray, hidden_bias: np.ndarray
) -> float:
    """Mean over rows f32 `[rows, V]` of the log pseudo-likelihood, as scikit-learn's `BernoulliRBM.score_samples` has it.

    That one flips a unit of each row at random and counts it `V` times; here every unit is flipped, which is its expectation.
    `kernel` is `[V, H]`.
    """
    inputs = visible @ kernel + hidden_bias
    before = np.logaddexp(0, inputs).sum(axis=1)
    total = np.zeros(len(visible))
    for unit, flip in enumerate((1 - 2 * visible).T):
        flipped = np.logaddexp(0, inputs + flip[:, None] * kernel[unit]).sum(axis=1)
        total -= np.logaddexp(0, flip * visible_bias[unit] + flipped - before)
    return float(total.mean())


def _digits() -> Loaded[Table]:
    from sklearn.datasets import load_digits

    data = load_digits()
    target = data.target.astype(np.int64)
    return bundled("scikit-learn digits", data.data, data.feature_names, target, data.target_names)


def _spec(name: str, width: int) -> TensorSpec:
    return TensorSpec(name, BY_NAME["float32"], (DYNAMIC, width))


def _readout(features: np.ndarray, targets: np.ndarray) -> Any:
    """A logistic model of the classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, targets)


def _with_holes(held_out: Arrays) -> dict[str, np.ndarray]:
    """Rows for `impute` out of rows for `serving_default`: a share of the cells, always the same ones, is not known."""
    values = held_out["features"]
    known = np.random.default_rng(0).random(values.shape) >= _HIDDEN_SHARE
    return {"values": np.where(known, values, 0).astype(np.float32), "mask": known}


def _impute_error(rows: np.ndarray, test: Examples, known: np.ndarray, spread: np.ndarray) -> float:
    """Root mean square error of the cells that are not `known`: numbers in their columns' spread, wrong categories 1."""
    truth = test.inputs["features"]
    hidden = ~known & ~np.isnan(truth)
    numeric = np.array([column.kind == "numeric" for column in columns_of(test)])
    errors = np.where(numeric, (rows - truth) / spread, rows != truth)
    return float(np.sqrt(np.mean(np.square(errors[hidden])))) if hidden.any() else 0.0


def _spread(train: Examples) -> np.ndarray:
    """Standard deviation of each column f64 `[F]`; 1 of one that does not vary."""
    spread = np.nanstd(train.inputs["features"].astype(np.float64), axis=0)
    return np.where(spread > 0, spread, 1.0)


def _usual_row(train: Examples) -> np.ndarray:
    """What a cell is without knowing anything of its row, f32 `[1, F]`: the mean, or the most frequent category."""
    from sklearn.impute import SimpleImputer

    columns = zip(columns_of(train), train.inputs["features"].T, strict=True)
    usual = [
        SimpleImputer(strategy="mean" if column.kind == "numeric" else "most_frequent", keep_empty_features=True)
        .fit(values[:, None])
        .statistics_[0]
        for column, values in columns
    ]
    return np.array([usual], np.float32)


def _activity_plot(hidden: np.ndarray) -> Plot:
    figure, axes = new_figure(width=5.6, height=4.6)
    axes.hist(hidden.std(axis=0), bins=np.linspace(0, 0.5, 21))
    axes.set_xlabel("spread of the activation over held-out rows (0.5: on in one half, off in the other)")
    axes.set_ylabel("hidden units")
    return Plot("Hidden units", "Units at 0 say the same of every row: fewer would do, or more training.", figure)


def _impute_plot(rows: np.ndarray, test: Examples) -> Plot:
    """True and imputed values of the cells that were hidden, on each column's own scale."""
    truth, inputs = test.inputs["features"], _with_holes(test.inputs)
    low, high = np.nanmin(truth, axis=0), np.nanmax(truth, axis=0)
    hidden = ~inputs["mask"] & ~np.isnan(truth) & (high > low)
    wide = np.where(high > low, high - low, 1)
    pairs = np.stack([((each - low) / wide)[hidden] for each in (truth, rows)])
    if pairs.shape[1] > _CELLS_SHOWN:
        pairs = pairs[:, np.linspace(0, pairs.shape[1] - 1, _CELLS_SHOWN).astype(int)]
    figure, axes = new_figure(width=5.6, height=4.6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axes.plot(*pairs, ".", alpha=0.25, markersize=4)
    axes.set_xlabel("true value, from its column's least to its largest")
    axes.set_ylabel("imputed value")
    caption = f"{_HIDDEN_SHARE:.0%} of the held-out cells were hidden; on the line they were guessed right."
    return Plot("Imputation", caption, figure)


def _picture_plots(rows: np.ndarray, serving: ServingModel, test: Examples) -> list[Plot]:
    """For columns that are pixels of a square picture: what the hidden units look at, and completed pictures."""
    from matplotlib import colormaps

    machine = serving.model.get_layer("hidden").machine
    encoding = serving.model.get_layer("encoding")
    names = [column.name for column in columns_of(test)]
    side = round(len(names) ** 0.5)
    if side**2 != len(names) or not all(name.startswith("pixel") for name in names):
        return []
    weights = np.zeros((len(names), machine.kernel.shape[1]), np.float32)
    np.add.at(weights, encoding.owner, np.asarray(machine.kernel))
    strongest = np.argsort(-np.abs(weights).sum(axis=0), kind="stable")[:_FILTERS_SHOWN]
    filters, grid = new_figure(width=7.5, height=2.9, nrows=3, ncols=_FILTERS_SHOWN // 3)
    for axes, unit in zip(grid.flat, strongest, strict=False):
        size = np.abs(weights[:, unit]).max()
        axes.imshow(weights[:, unit].reshape(side, side), cmap="RdBu_r", vmin=-size, vmax=size)
    inputs = {name: values[:_PICTURES_SHOWN] for name, values in _with_holes(test.inputs).items()}
    features = test.inputs["features"][:_PICTURES_SHOWN]
    shown = {
        "given": features,
        "with holes": np.where(inputs["mask"], inputs["values"], np.nan),
        "completed": rows[:_PICTURES_SHOWN],
        "reconstructed": np.asarray(serving.further["reconstruct"].model({"features": features})["reconstruction"]),
    }
    grey = colormaps["gray_r"].with_extremes(bad=_HOLE)
    low, high = float(np.nanmin(features)), float(np.nanmax(features))
    pictures, cells = new_figure(width=7.5, height=3.6, nrows=4, ncols=len(features), squeeze=False)
    for line, (title, shown_rows) in zip(cells, shown.items(), strict=True):
        line[0].set_title(title, fontsize=8, loc="left")
        for axes, row in zip(line, shown_rows, strict=True):
            axes.imshow(row.reshape(side, side), cmap=grey, vmin=low, vmax=high)
    for axes in (*grid.flat, *cells.flat):
        axes.set_axis_off()
    return [
        Plot(
            "What hidden units look at",
            "Weights by pixel of the strongest units; ink turns them on where red, off where blue. Edges, not noise.",
            filters,
        ),
        Plot("Held-out pictures", "A completed picture should be the one given.", pictures),
    ]


PIPELINE = Rbm()
