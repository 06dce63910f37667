"""What the tabular families share: their options, the dense stack, and the way from a table to examples."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np

from services.processing import Processor
from services.processing.tabular import Column, TabularProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.tables import Constant, Table
from training.optimization import SCHEDULES, GradientOptions, ScheduleName
from training.options import Bounds, Search
from training.pipeline import CommonOptions, Examples, Pipeline

Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "swish", "elu", "selu", "softplus", "mish"]


@dataclass(frozen=True)
class TableOptions(GradientOptions):
    """Options of the families that learn from a table: what is read of it, and as what."""

    categorical: tuple[str, ...] = ()
    """Columns to read as categories even where every cell is a number."""
    drop: tuple[str, ...] = ()
    """Columns to leave out, such as identifiers."""
    constant: Constant = "error"
    """What to do with columns that hold the same in every row: refuse the file, or leave them out."""

    @property
    def reading(self) -> dict[str, Any]:
        """What `load_table` is to be told."""
        return {"categorical": self.categorical, "drop": self.drop, "constant": self.constant}


@dataclass(frozen=True)
class TabularOptions(TableOptions):
    """Options of the families that learn from rows of a table with dense layers."""

    activation: Activation = "relu"
    """Activation of the hidden layers."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
    """Share of activations dropped after each hidden layer while training."""
    batch_norm: bool = False
    """Batch normalisation after each hidden layer."""
    schedule: Annotated[ScheduleName, SCHEDULES] = "cosine"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""


@dataclass(frozen=True)
class SupervisedOptions(TabularOptions):
    """Options of the families that learn a target with a stack of dense layers."""

    epochs: Annotated[int, Bounds(1)] = 300
    """Most epochs to train; early stopping usually ends sooner."""
    patience: Annotated[int, Bounds(1)] = 40
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.3
    """Share of activations dropped after each hidden layer while training."""
    units: Annotated[tuple[int, ...], Bounds(1), Search(32, 256, log=True, depth=(1, 3))] = (128, 128)
    """Width of each hidden layer; their number is the depth."""
    bins: Annotated[int, Bounds(0, 256)] = 0
    """Intervals per numeric column of a piecewise-linear code beside the plain value; 0 for none."""


OptionsT = TypeVar("OptionsT", bound=CommonOptions)


@dataclass(frozen=True)
class TabularExamples(Examples):
    """Examples with the columns they were encoded by, for baselines that treat categories as such."""

    columns: tuple[Column, ...] = ()


class TabularPipeline(Pipeline[Table, OptionsT]):
    """A family that learns from rows of a table: what is the same whatever is learnt."""

    def fit_processor(self, train: Table, options: OptionsT) -> TabularProcessor:  # noqa: ARG002  # the contract has it
        return TabularProcessor.fit(train.columns)

    def examples(self, data: Table, processor: Processor, options: OptionsT) -> TabularExamples:
        encoder = tabular(processor)
        targets, labels = self.targets(data, options)
        return TabularExamples(encoder.encode_columns(data.columns), targets, None, labels, encoder.columns)

    @abstractmethod
    def targets(self, data: Table, options: OptionsT) -> tuple[np.ndarray, tuple[str, ...]]:
        """What the model is to answer, one per row; for classes their indices, and the labels."""


def tabular(processor: Processor) -> TabularProcessor:
    """The processor as the tabular one that `fit_processor` returned."""
    if not isinstance(processor, TabularProcessor):
        raise TypeError(f"expected a TabularProcessor, received {type(processor).__name__}")
    return processor


def columns_of(examples: Examples) -> tuple[Column, ...]:
    """The columns that tabular examples were encoded by."""
    if not isinstance(examples, TabularExamples):
        raise TypeError(f"expected TabularExamples, received {type(examples).__name__}")
    return examples.columns


def signature(columns: int, *outputs: TensorSpec) -> Signature:
    """A tabular signature: `features` f32 `[B, F]` in."""
    return Signature((TensorSpec("features", BY_NAME["float32"], (DYNAMIC, columns)),), outputs)


def hidden_layers(train: Examples, processor: Processor, options: SupervisedOptions) -> tuple[Any, Any]:
    """The input `features` f32 `[B, F]`, and what the dense layers make of its code, f32 `[B, units]`."""
    import keras

    from training.layers.tabular import TabularEncoding

    columns = tabular(processor).columns
    features = keras.Input((len(columns),), name="features")
    encoded = TabularEncoding(columns, train.inputs["features"], bins=options.bins)(features)
    return features, dense_stack(encoded, options.units, options)


def dense_stack(x: Any, units: Sequence[int], options: TabularOptions) -> Any:
    """Hidden layers: dense, batch normalisation where asked for, activation, dropout where asked for."""
    import keras

    initializer = "lecun_normal" if options.activation == "selu" else "he_normal"
    for width in units:
        x = keras.layers.Dense(width, kernel_initializer=initializer, use_bias=not options.batch_norm)(x)
        if options.batch_norm:
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Activation(options.activation)(x)
        if options.dropout:
            x = keras.layers.Dropout(options.dropout)(x)
    return x


def baseline_features(columns: Sequence[Column]) -> Any:
    """A scikit-learn transformer for the baselines: numbers imputed and standardised, categories one-hot."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    kinds = [column.kind for column in columns]
    numeric = [index for index, kind in enumerate(kinds) if kind == "numeric"]
    categorical = [index for index, kind in enumerate(kinds) if kind == "categorical"]
    return ColumnTransformer(
        [
            ("numeric", make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), numeric),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), categorical),
        ]
    )
