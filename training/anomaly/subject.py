"""What the autoencoder has to know about its data, whatever that is: `tables` and `pictures` each say it for theirs.

A raw row (what a client sends) is encoded (what the network sees), coded (the bottleneck), decoded, and brought back to raw
units. The score of a row is the mean squared difference of encoded and decoded.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from services.processing import Processor
from services.processing.tabular import Column
from training.anomaly.options import AutoencoderOptions
from training.anomaly.rows import AnomalyExamples, Rows
from training.datasets.images import Images
from training.datasets.tables import Table
from training.pipeline import Loaded, Plot, Source

ContentT = TypeVar("ContentT", Table, Images)

BATCH_ROWS = 256


class Subject(ABC, Generic[ContentT]):
    """One kind of data. Stateless; Keras is imported when a network is built."""

    tensor: ClassVar[str]
    """Name of the input."""
    bottleneck: ClassVar[int]
    """Width of the code where the options do not say."""
    units: ClassVar[str]
    """What a squared difference of encoded values is measured in."""

    @abstractmethod
    def load(self, source: Source, options: AutoencoderOptions) -> Loaded[ContentT]:
        """Read the user's file or folder, or the default data. Raises DataError."""

    @abstractmethod
    def fit_processor(self, train: ContentT, options: AutoencoderOptions) -> Processor:
        """Learn from the training part how raw payloads become the input."""

    @abstractmethod
    def encode(self, content: ContentT, processor: Processor) -> np.ndarray:
        """The input rows of one part."""

    @abstractmethod
    def encoding(self, train: np.ndarray, columns: tuple[Column, ...]) -> Any:
        """The layer `encoding`, from raw rows to what the network sees."""

    @abstractmethod
    def decoding(self, encoding: Any) -> Any:
        """The layer that undoes `encoding`: f32 of the input's shape."""

    @abstractmethod
    def corruption(self, encoding: Any, options: AutoencoderOptions, seed: int) -> Any:
        """The layer `corruption`, from raw rows to damaged ones of the same units, while training."""

    @abstractmethod
    def network(self, encoded: tuple[int, ...], options: AutoencoderOptions) -> tuple[Any, Any]:
        """Keras models `encoder` and `decoder`, from a row of that shape to its code `[K]` and back."""

    @abstractmethod
    def received(self, damaged: np.ndarray) -> np.ndarray:
        """Damaged rows as a client would send them, in the input's dtype."""

    @abstractmethod
    def errors(self, encoding: Any, restored: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """How far restored raw rows are from clean ones: f32 `[rows]`, mean squared error in `units`."""

    @abstractmethod
    def restoration_plot(self, encoding: Any, test: AnomalyExamples, noisy: np.ndarray, restored: np.ndarray) -> Plot:
        """Some normal held-out rows: clean, damaged, and as the model restored them."""

    def width(self, options: AutoencoderOptions) -> int:
        """Width of the code."""
        return options.bottleneck or self.bottleneck


def subject_of(rows: Rows | AnomalyExamples) -> Subject[Any]:
    """The subject that these rows belong to."""
    from training.anomaly.pictures import PICTURES
    from training.anomaly.tables import TABLES

    pictures = isinstance(rows.content, Images) if isinstance(rows, Rows) else PICTURES.tensor in rows.inputs
    return PICTURES if pictures else TABLES
