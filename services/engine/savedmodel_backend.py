"""A plain SavedModel, served by TensorFlow itself: for directories that hold no model.onnx.

It runs in a session on its graph, as in TensorFlow Serving, and not through `tf.saved_model.load`: that rebuilds the graph as
Python functions, refuses some models of TensorFlow 1 and forgets what the signatures call their tensors and methods.

The only module of `services` that imports TensorFlow, and only in a process that serves such a model (564 MB and 5 s that
ONNX Runtime does not need).
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from services.engine.device_threads import DeviceThreads
from services.errors import CornetError, DataLoss, FailedPrecondition, Internal, InvalidArgument, SignatureNotFound
from services.telemetry.log import get_logger
from services.tensors import BY_TF_ENUM, Signature, TensorSpec

_GPU_RUNS = 2  # at a time

_log = get_logger(__name__)


class SavedModelBackend:
    """Every signature of a SavedModel's `serve` tag. See `services.engine.backend.Backend`."""

    platform = "tensorflow_savedmodel"
    advisory_shapes = True
    healthy = True

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
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                loader = tf.compat.v1.saved_model.loader
                definitions = loader.load(self._session, [tf.saved_model.SERVING], str(path)).signature_def
        except Exception as error:
            self._session.close()
            raise DataLoss(f"The SavedModel cannot be loaded: {type(error).__name__}.") from error
        self.signatures: Mapping[str, Signature] = {
            key: _signature(definition) for key, definition in sorted(definitions.items()) if not key.startswith("__")
        }
        if not self.signatures:
            self._session.close()
            raise DataLoss("Expected a SavedModel with at least one signature. Received: none.")
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., list[Any]]] = {}
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.providers: tuple[str, ...] = ("GPU" if on_gpu else "CPU",)
        self.threads = DeviceThreads(_GPU_RUNS) if on_gpu else None

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """See `Backend.run`."""
        described = self.signatures.get(signature)
        if described is None:
            raise SignatureNotFound(signature, tuple(self.signatures))
        names = outputs or tuple(spec.name for spec in described.outputs)
        try:
            function = self._callables.get((signature, names))
            if function is None:
                function = self._callables[signature, names] = self._callable(described, names)
            results = function(*(np.asarray(inputs[spec.name]) for spec in described.inputs))
        except self._tf.errors.InvalidArgumentError as error:
            raise InvalidArgument(f"The model refuses these values: {_reason(error)}") from error
        except Exception as error:
            raise _internal(error) from error
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}

    def close(self) -> None:
        """Drop the model and its variables."""
        self._callables = {}
        self._session.close()
        if self.threads is not None:
            self.threads.close()

    def _callable(self, signature: Signature, names: tuple[str, ...]) -> Callable[..., list[Any]]:
        """The graph between the inputs and the named outputs, prepared once: a run then costs no lookups by name."""
        from tensorflow.core.protobuf.config_pb2 import CallableOptions

        outputs = {spec.name: spec.graph_name for spec in signature.outputs}
        options = CallableOptions(
            feed=[spec.graph_name for spec in signature.inputs], fetch=[outputs[name] for name in names]
        )
        # The public calls compare what is fed with the declared shape first, which TensorFlow Serving does not.
        function: Callable[..., list[Any]] = self._session._make_callable_from_options(options)  # noqa: SLF001 - see above
        return function


def _signature(definition: Any) -> Signature:
    return Signature(
        inputs=tuple(_spec(name, info) for name, info in sorted(definition.inputs.items())),
        outputs=tuple(_spec(name, info) for name, info in sorted(definition.outputs.items())),
        method_name=definition.method_name,
    )


def _spec(name: str, info: Any) -> TensorSpec:
    dtype = BY_TF_ENUM.get(info.dtype)
    if dtype is None or info.WhichOneof("encoding") != "name":
        known = ", ".join(entry.tf_name for entry in BY_TF_ENUM.values())
        raise InvalidArgument(
            f"{name}: expected a dense tensor of an element type out of {known}. Received: DataType {info.dtype}, "
            f"{info.WhichOneof('encoding')}."
        )
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(name, dtype, shape, info.name)


def _reason(error: Any) -> str:
    """The line that says what is wrong: TensorFlow puts it between where the node was defined and the node's name."""
    lines = [line.strip() for line in str(getattr(error, "message", "")).splitlines() if line.strip()]
    named = next((i for i, line in enumerate(lines) if line.startswith("[[")), 0)
    return lines[max(0, named - 1)][:500] if lines else type(error).__name__


def _internal(error: Exception) -> CornetError:
    _log.error("TensorFlow failed", cause=error)
    return Internal("The model runtime failed; the server's log has the cause.")
