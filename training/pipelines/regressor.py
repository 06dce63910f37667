"""A number from a row of a table: dense layers with a linear output."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, TensorSpec
from training.datasets.tables import Table, bundled, load_table
from training.evaluation import new_figure, regression_metrics
from training.optimization import optimizer
from training.options import Bounds, Search
from training.pipeline import Arrays, Baseline, Examples, Loaded, Plot, ServingModel, Source, Split
from training.splits import cut, random_split
from training.tabular import (
    SupervisedOptions,
    TabularPipeline,
    baseline_features,
    columns_of,
    hidden_layers,
    signature,
    tabular,
)

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class RegressorOptions(SupervisedOptions):
    """Options of the regressor."""

    bins: Annotated[int, Bounds(0, 256), Search(0, 48)] = 16
    """Intervals per numeric column of a piecewise-linear code beside the plain value; 0 for none."""
    loss: Literal["mse", "mae", "huber", "log_cosh"] = "mse"
    """What training minimises, on the standardised target."""


class Regressor(TabularPipeline[RegressorOptions]):
    """The network learns the target standardised by the training rows; the served graph puts it back into its units."""

    family: ClassVar[str] = "regressor"
    task: ClassVar[str] = "regression"
    summary: ClassVar[str] = "Dense ReLU layers with a linear output; default data: scikit-learn diabetes"
    options = RegressorOptions
    primary_metric: ClassVar[str] = "rmse"

    def load(self, source: Source, options: RegressorOptions) -> Loaded[Table]:
        if source.path is not None:
            return load_table(source, "number", **options.reading)
        from sklearn.datasets import load_diabetes

        data = load_diabetes(scaled=False)
        return bundled("scikit-learn diabetes", data.data, data.feature_names, data.target)

    def split(self, data: Table, options: RegressorOptions) -> Split[Table]:
        return cut(data, random_split(len(data), options))

    def targets(self, data: Table, options: RegressorOptions) -> tuple[np.ndarray, tuple[str, ...]]:
        if data.target is None:
            raise ValueError("a regression table has a target")
        return data.target.astype(np.float32)[:, np.newaxis], ()

    def build(self, train: Examples, processor: Processor, options: RegressorOptions) -> "keras.Model":
        import keras

        features, hidden = hidden_layers(train, processor, options)
        standardised = keras.layers.Dense(1, name="standardised")(hidden)
        model = keras.Model({"features": features}, standardised)
        model.compile(optimizer(options, len(train)), options.loss)
        return model

    def to_learn(self, part: Examples, train: Examples, options: RegressorOptions) -> Examples:
        mean, spread = _scale(train)
        return replace(part, targets=(part.targets - mean) / spread)

    def serving_model(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        processor: Processor,
        options: RegressorOptions,
    ) -> ServingModel:
        import keras

        mean, spread = _scale(train)
        prediction = keras.layers.Rescaling(spread, mean, name="prediction")(model.output)
        columns = len(tabular(processor).columns)
        return ServingModel(
            keras.Model(model.input, {"prediction": prediction}),
            signature(columns, TensorSpec("prediction", BY_NAME["float32"], (DYNAMIC, 1))),
        )

    def evaluate(self, outputs: Arrays, test: Examples, options: RegressorOptions) -> dict[str, float]:
        return regression_metrics(outputs["prediction"], test.targets)

    def baseline(self, train: Examples, test: Examples, options: RegressorOptions) -> Baseline:
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline

        linear = make_pipeline(baseline_features(columns_of(train)), LinearRegression())
        linear.fit(train.inputs["features"], train.targets)
        return Baseline("linear model", regression_metrics(linear.predict(test.inputs["features"]), test.targets))

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: RegressorOptions) -> list[Plot]:
        prediction, target = outputs["prediction"].ravel(), test.targets.ravel()
        return [_predicted_plot(prediction, target), _residual_plot(prediction, target)]


def _scale(train: Examples) -> tuple[float, float]:
    """Mean and spread of the training targets."""
    return float(train.targets.mean()), float(train.targets.std()) or 1.0


def _predicted_plot(prediction: np.ndarray, target: np.ndarray) -> Plot:
    figure, axes = new_figure(width=5.6, height=4.6)
    ends = [min(prediction.min(), target.min()), max(prediction.max(), target.max())]
    axes.plot(ends, ends, color="grey", linewidth=1, linestyle="--", label="prediction = actual")
    axes.scatter(target, prediction, s=14, alpha=0.6, linewidths=0)
    axes.set_xlabel("actual")
    axes.set_ylabel("predicted")
    axes.legend()
    caption = "Points on the dashed line are answered exactly; a cloud that leans off it is a bias."
    return Plot("Predicted and actual", caption, figure)


def _residual_plot(prediction: np.ndarray, target: np.ndarray) -> Plot:
    figure, axes = new_figure(width=5.6, height=4.6)
    residuals = target - prediction
    axes.hist(residuals, bins=min(40, 5 + len(residuals) // 10), alpha=0.85)
    axes.axvline(0, color="grey", linewidth=1, linestyle="--")
    axes.axvline(residuals.mean(), color="#b3352f", linewidth=1.2, label=f"mean {residuals.mean():.3g}")
    axes.set_xlabel("actual - predicted, in target units")
    axes.set_ylabel("held-out rows")
    axes.legend()
    return Plot("Residuals", "Centred on 0 and narrow is good; a long tail holds the rows the model fails on.", figure)


PIPELINE = Regressor()
