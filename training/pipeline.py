"""What a model family declares, and the plain values that pass between its steps.

A pipeline is stateless: `training.runner` calls its methods in the order below and hands each what the ones before
returned. Nothing is fitted before the split.

    load -> split -> fit_processor -> examples -> build -> fit -> serving_model
         -> equip -> questions -> evaluate / examine / baseline -> export -> figures

A new family is one file in `training/pipelines/` that defines one `Pipeline` named `PIPELINE`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from services.manifest import BatchingHints
from services.processing import Processor
from services.tensors import DEFAULT_SIGNATURE, Signature
from training.options import Bounds, Search

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

Arrays = Mapping[str, np.ndarray]
"""Arrays by tensor name, as a served model takes and gives them: equal first axes, raw units."""

Ask = Callable[[Arrays], Arrays]
"""What a model answers by `serving_default`, as it is served: inputs in any number of rows to outputs."""


@dataclass(frozen=True)
class Source:
    """What the user asked to train on: a file or folder, or `None` for the family's default data."""

    path: Path | None = None
    target: str | None = None


@dataclass(frozen=True)
class CommonOptions:
    """Options of every family. Each field is settable by `--set name=value`; the docstring beside it is its help.

    `training.options` says which types there are and how a range is declared, for what is allowed and for what `cornet tune`
    tries. A family's own `__post_init__` raises InvalidArgument for options that contradict each other.
    """

    epochs: Annotated[int, Bounds(1)] = 100
    """Most epochs to train; early stopping usually ends sooner."""
    batch_size: Annotated[int, Bounds(1), Search(16, 128, log=True)] = 32
    """Rows per gradient step."""
    learning_rate: Annotated[float, Bounds(0, open_low=True), Search(1e-4, 1e-2, log=True)] = 1e-3
    """Step size of gradient descent."""
    patience: Annotated[int, Bounds(1)] = 10
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    test_share: Annotated[float, Bounds(0, 0.9, open_low=True)] = 0.2
    """Share of the rows held out for the figures that are reported."""
    validation_share: Annotated[float, Bounds(0, 0.9, open_low=True)] = 0.15
    """Share of the remaining rows that early stopping watches."""
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    """Seed of the split, the initial weights and the shuffling."""
    deterministic: bool = True
    """Only use operations that repeat bit for bit; a GPU may lack one that a model needs, and is faster without."""


OptionsT = TypeVar("OptionsT", bound=CommonOptions)
DataT = TypeVar("DataT")


@dataclass(frozen=True)
class Stage(Generic[OptionsT]):
    """A leg of training by options of its own: epochs and patience begin anew, and the step size may be another."""

    name: str
    options: OptionsT


@dataclass(frozen=True)
class Loaded(Generic[DataT]):
    """Raw data as it was read, its name (`scikit-learn diabetes`, a file name) and the SHA-256 of what was read."""

    data: DataT
    name: str
    sha256: str


@dataclass(frozen=True)
class Split(Generic[DataT]):
    """Three disjoint parts; for series, in the order of time."""

    train: DataT
    validation: DataT
    test: DataT


@dataclass(frozen=True)
class Examples:
    """Model inputs by name, in raw units (what a client sends), and what the model is to answer.

    `targets` has one row per input row; for classes it holds indices into `labels`. `weights` f32 `[rows]` weigh the
    loss; `None` weighs all alike. `served` are the rows that clients send where those are not what the model trains on, in
    whatever number.
    """

    inputs: dict[str, np.ndarray]
    targets: np.ndarray
    weights: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    served: dict[str, np.ndarray] | None = field(default=None, kw_only=True)

    @property
    def serving_inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the serving model: its signature's tensors."""
        return self.inputs if self.served is None else self.served

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Endpoint:
    """One function: a Keras model that takes a dict of the signature's inputs and returns a dict of its outputs.

    `rows` makes held-out rows of it out of `serving_default`'s, to prove it with; `None` takes those of the same names.
    """

    model: "keras.Model"
    signature: Signature
    rows: Callable[[Arrays], Arrays] | None = None


@dataclass(frozen=True)
class ServingModel:
    """What is exported: a Keras model whose inputs and outputs are named as the signature names them.

    `model` takes a dict of the signature's inputs and returns a dict of its outputs, all preprocessing and postprocessing
    that can live in the graph included. It is the signature `serving_default`; `further` ones have functions of their own,
    over the same variables or others, or are another name of one: the same model and signature again. `notes` are
    what a user has to know of it beyond signature and options, such as a chosen threshold; manifest and report show them.
    """

    model: "keras.Model"
    signature: Signature
    labels: tuple[str, ...] = ()
    batching: BatchingHints = field(default_factory=BatchingHints)
    further: Mapping[str, Endpoint] = field(default_factory=dict)
    notes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Every signature by name, `serving_default` first."""
        return {DEFAULT_SIGNATURE: Endpoint(self.model, self.signature), **self.further}


@dataclass(frozen=True)
class Trained:
    """A model as training left it and as it would be served, and what both were made from."""

    model: "keras.Model"
    serving: ServingModel
    train: Examples
    validation: Examples
    processor: Processor


@dataclass(frozen=True)
class Baseline:
    """The simplest honest competitor, fitted on the training part and measured on the test part."""

    name: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Plot:
    """One figure of the report, with the sentence that says what to look for in it."""

    title: str
    caption: str
    figure: "Figure"


@runtime_checkable
class Watcher(Protocol):
    """A Keras callback that looks at the rows themselves, such as a diagnosis."""

    def watch(self, train: Examples) -> None:
        """The rows that are learnt from next, as the model that is fitted takes them."""


def show_rows(callbacks: Sequence[Any], train: Examples) -> None:
    """Tell every watcher among the callbacks what is learnt from next."""
    for callback in callbacks:
        if isinstance(callback, Watcher):
            callback.watch(train)


class Pipeline(ABC, Generic[DataT, OptionsT]):
    """One model family, from raw data to what is exported."""

    family: ClassVar[str]
    """Name of the family, and the default model name."""
    task: ClassVar[str]
    """One of `services.manifest.TASKS`."""
    summary: ClassVar[str]
    """One line for `--help`: architecture and default data."""
    options: type[OptionsT]
    """The dataclass of the family's options."""
    primary_metric: ClassVar[str]
    """The metric of `evaluate` that tables show, and the one its baseline is compared by."""
    split_options: ClassVar[tuple[str, ...]] = ("seed", "test_share", "validation_share")
    """Options that decide which rows are held out: where they are equal, so are the rows of the same data."""

    def chosen(self, options: OptionsT) -> "Pipeline[Any, OptionsT]":
        """The pipeline for the task that the options ask for: itself, unless the family has several."""
        return self

    def base_weights(self, options: OptionsT) -> str:
        """What training starts from, as `Provenance.base_weights` has it: '' for none. A file is read to its end.

        Asked for once, before anything is loaded. Raises InvalidArgument for a file that is not there.
        """
        return ""

    @abstractmethod
    def load(self, source: Source, options: OptionsT) -> Loaded[DataT]:
        """Read the user's file, or the default data. Raises DataError naming file, row and column."""

    @abstractmethod
    def split(self, data: DataT, options: OptionsT) -> Split[DataT]:
        """Cut into train, validation and test, seeded (in time for series), before anything is fitted."""

    @abstractmethod
    def fit_processor(self, train: DataT, options: OptionsT) -> Processor:
        """Learn from the training part how raw payloads become tensors (columns, vocabulary, image size)."""

    @abstractmethod
    def examples(self, data: DataT, processor: Processor, options: OptionsT) -> Examples:
        """Encode one part with the very processor that will be published."""

    @abstractmethod
    def build(self, train: Examples, processor: Processor, options: OptionsT) -> "keras.Model":
        """A compiled model that takes `Examples.inputs`; layers that learn statistics adapt to `train`."""

    def to_learn(self, part: Examples, train: Examples, options: OptionsT) -> Examples:
        """What `fit` shows the model of a part: the examples, unless the family learns other targets than it answers."""
        return part

    def stages(self, options: OptionsT) -> tuple[Stage[OptionsT], ...]:
        """The legs of training, in order; one for most families. The weights of least validation loss are published."""
        return (Stage("training", options),)

    def begin(self, model: "keras.Model", train: Examples, options: OptionsT) -> None:
        """Make the model ready for its second or a later stage, by that stage's options: unfreeze, compile.

        `build` has made it ready for the first, and it has the best weights of the stage before.
        """

    def fit(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        options: OptionsT,
        callbacks: Sequence[Any],
        initial_epoch: int = 0,
    ) -> None:
        """Train one stage in place, from `initial_epoch` on when it is resumed; overridden where no gradient descent fits.

        Callbacks that look at rows themselves are told by `show_rows` which ones are learnt from.
        """
        train, validation = (self.to_learn(part, train, options) for part in (train, validation))
        show_rows(callbacks, train)
        model.fit(
            train.inputs,
            train.targets,
            sample_weight=train.weights,
            validation_data=(validation.inputs, validation.targets),
            epochs=options.epochs,
            initial_epoch=initial_epoch,
            batch_size=options.batch_size,
            callbacks=list(callbacks),
            verbose=0,
        )

    @abstractmethod
    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: OptionsT
    ) -> ServingModel:
        """Wrap the trained model under the family's signature."""

    def equip(self, ask: Ask, train: Examples, test: Examples, options: OptionsT) -> Examples:
        """The test part with what `evaluate` needs beside it, as a model of the answers to training rows; else as it is."""
        return test

    def questions(self, test: Examples) -> Mapping[str, Arrays]:
        """Rows for further signatures, by name: `evaluate` sees their outputs beside `serving_default`'s. None by default.

        They are made of the test part as `equip` returns it.
        """
        return {}

    @abstractmethod
    def evaluate(self, outputs: Arrays, test: Examples, options: OptionsT) -> dict[str, float]:
        """Metrics of the served outputs on the test part; those of `questions` may be absent, and their metrics with them."""

    def examine(self, trained: Trained, test: Examples, options: OptionsT) -> dict[str, float]:
        """Metrics that the served outputs do not show; none by default.

        They are of the trained model itself, of further signatures, or of what is fitted to stand beside it. `test` is the
        part as `equip` returned it: of a trial, the validation part.
        """
        return {}

    @abstractmethod
    def baseline(self, train: Examples, test: Examples, options: OptionsT) -> Baseline:
        """The competitor's metrics, under the same names."""

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: OptionsT) -> list[Plot]:
        """The family's own plots; the loss curves are drawn for all."""
        return []
