"""A plain SavedModel, served by TensorFlow itself: for directories that hold no model.onnx.

The only module of `services` that imports TensorFlow, and only in a process that serves such a model (564 MB and 5 s that
ONNX Runtime does not need).
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from services.errors import CornetError, DataLoss, FailedPrecondition, Internal, InvalidArgument, SignatureNotFound
from services.telemetry.log import get_logger
from services.tensors import BY_TF_ENUM, DYNAMIC, Signature, TensorSpec

_log = get_logger(__name__)


class SavedModelBackend:
    """Every signature of a SavedModel's `serve` tag. See `services.engine.backend.Backend`."""

    platform = "tensorflow_savedmodel"
    advisory_shapes = True

    def __init__(self, path: Path) -> None:
        """Load a version directory. Raises FailedPrecondition where TensorFlow is not installed, DataLoss for a bad file."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong is raised, and logged once, by us
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        logging.getLogger("absl").setLevel(logging.WARNING)
        try:
            import tensorflow as tf
        except ImportError as error:
            raise FailedPrecondition(
                "Expected TensorFlow, to serve a plain SavedModel. Received an installation without it: install the "
                "`tensorflow` extra (pip install 'cornet[tensorflow]'), or export the model to ONNX."
            ) from error
        self._tf = tf
        try:
            self._model: Any = tf.saved_model.load(str(path))
        except Exception as error:
            raise DataLoss(f"The SavedModel cannot be loaded: {type(error).__name__}.") from error
        functions = {key: f for key, f in self._model.signatures.items() if not key.startswith("__")}
        if not functions:
            raise DataLoss("Expected a SavedModel with at least one signature. Received: none.")
        self._functions: dict[str, Any] = functions
        self.signatures: Mapping[str, Signature] = {key: _signature(f) for key, f in functions.items()}
        self.providers: tuple[str, ...] = ("GPU" if tf.config.list_physical_devices("GPU") else "CPU",)

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """See `Backend.run`."""
        function = self._functions.get(signature)
        if function is None:
            raise SignatureNotFound(signature, tuple(self._functions))
        try:
            results = function(**{name: self._tf.constant(array) for name, array in inputs.items()})
            names = outputs or tuple(spec.name for spec in self.signatures[signature].outputs)
            return {name: np.asarray(results[name].numpy()) for name in names}
        except self._tf.errors.InvalidArgumentError as error:
            raise InvalidArgument(f"The model refuses these values: {_reason(error)}") from error
        except Exception as error:
            raise _internal(error) from error

    def close(self) -> None:
        """Drop the model and its variables."""
        self._functions = {}
        self._model = None


def _signature(function: Any) -> Signature:
    _, inputs = function.structured_input_signature
    return Signature(
        inputs=tuple(_spec(name, spec) for name, spec in sorted(inputs.items())),
        outputs=tuple(_spec(name, spec) for name, spec in sorted(function.structured_outputs.items())),
    )


def _spec(name: str, spec: Any) -> TensorSpec:
    dtype = BY_TF_ENUM.get(spec.dtype.as_datatype_enum)
    if dtype is None:
        known = ", ".join(entry.tf_name for entry in BY_TF_ENUM.values())
        raise InvalidArgument(f"{name}: expected an element type out of {known}. Received: {spec.dtype.name}.")
    if spec.shape.rank is None:
        return TensorSpec(name, dtype, None)
    return TensorSpec(name, dtype, tuple(DYNAMIC if axis is None else axis for axis in spec.shape.as_list()))


def _reason(error: Any) -> str:
    """The line that says what is wrong: TensorFlow puts it between where the node was defined and the node's name."""
    lines = [line.strip() for line in str(getattr(error, "message", "")).splitlines() if line.strip()]
    named = next((i for i, line in enumerate(lines) if line.startswith("[[")), 0)
    return lines[max(0, named - 1)][:500] if lines else type(error).__name__


def _internal(error: Exception) -> CornetError:
    _log.error("TensorFlow failed", cause=error)
    return Internal("The model runtime failed; the server's log has the cause.")
