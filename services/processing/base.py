"""What every processor promises, and how one is found by its kind."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from services.errors import ManifestError
from services.manifest import ProcessorSpec

Values: TypeAlias = Sequence[Any] | np.ndarray
"""Records, or the cells of a column: a list, a numpy array, or what behaves as one of them (a pandas column)."""

_KINDS = {
    "image": ("services.processing.image", "ImageProcessor"),
    "prompt": ("services.processing.prompt", "PromptProcessor"),
    "series": ("services.processing.series", "SeriesProcessor"),
    "tabular": ("services.processing.tabular", "TabularProcessor"),
    "text": ("services.processing.text", "TextProcessor"),
}


class Processor(ABC):
    """Encodes records as the named tensors of one model's signature.

    Immutable once fitted or loaded, and safe to use from several threads. `encode` is the same function in training,
    serving and batch jobs. Each kind adds its own `fit` classmethod, as what it learns from differs.
    """

    kind: ClassVar[str]
    pads: ClassVar[bool] = False
    """Whether zeros at the end of a free axis are padding, which must not change an answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns it reads; none for payloads without columns."""
        return ()

    @abstractmethod
    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """Named tensors with one row per record, in order. Raises DataError naming the record and what is wrong."""

    @abstractmethod
    def save(self, directory: Path) -> ProcessorSpec:
        """Write the asset files below a version directory (in `assets/`) and return what the manifest is to hold."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:
        """The processor that `save` wrote. Raises ManifestError where options or assets are not what they must be."""


def load_processor(directory: Path, spec: ProcessorSpec) -> Processor:
    """The processor a manifest names; only that kind's libraries are imported. Raises ManifestError."""
    return processor_type(spec).load(directory, spec)


def processor_type(spec: ProcessorSpec) -> type[Processor]:
    """The class of the processor a manifest names. Raises ManifestError."""
    try:
        module, name = _KINDS[spec.kind]
    except KeyError:
        known = ", ".join(sorted(_KINDS))
        raise ManifestError(f"manifest.processor.kind: expected one of {known}. Received: {spec.kind!r}.") from None
    processor: type[Processor] = getattr(import_module(module), name)
    return processor
