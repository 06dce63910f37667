"""The model runtime: named arrays in, named arrays out.

    backend = OnnxBackend(Path("exported_models/regressor/1/model.onnx"), BackendOptions())
    backend.run("serving_default", {"features": rows}, ("prediction",))      # {"prediction": float32 [B, 1]}

A backend knows nothing of versions, batching or protocols; the parity gate of training and batch jobs use it directly.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from services.cpus import available_cpus
from services.errors import CornetError, DataLoss, FailedPrecondition, Internal, InvalidArgument, SignatureNotFound
from services.telemetry.log import get_logger
from services.tensors import BY_ORT, DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_AUTOMATIC = (CUDA, CPU)
_QUIET = 4  # ONNX Runtime's FATAL: what goes wrong is raised, and logged once, by us
_DEVICE_PROVIDERS = (TENSORRT, CUDA)

_log = get_logger(__name__)

ort.disable_telemetry_events()


class Backend(Protocol):
    """One loaded model. `run` may be called from any thread, also from several at once; not after `close`."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Name -> inputs and outputs, as the model file declares them."""
        ...

    @property
    def platform(self) -> str:
        """`onnxruntime_onnx` or `tensorflow_savedmodel`."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """What really runs the model, the first one first."""
        ...

    @property
    def advisory_shapes(self) -> bool:
        """Whether the declared shapes are a hint and no rule: TensorFlow runs a graph on whatever fits its operations, and
        clients of TensorFlow Serving send `[3]` where `[-1, 1]` is declared.
        """
        ...

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The named outputs; `outputs` empty means all. Raises CornetError: InvalidArgument where the values are at fault."""
        ...

    def close(self) -> None:
        """Give back the model's memory."""
        ...


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How ONNX Runtime runs a model.

    `providers`: execution providers in order of preference; empty means CUDA where this ONNX Runtime has it, else the CPU.
    A provider that is named and absent is an error unless `allow_cpu_fallback`. `intra_op_threads`: threads per run, 0 for
    as many as `cpus`, which is how many the process may count on, 0 for all that it may use. `device_id`: which GPU.
    """

    providers: tuple[str, ...] = ()
    intra_op_threads: int = 0
    allow_cpu_fallback: bool = False
    device_id: int = 0
    cpus: int = 0


class OnnxBackend:
    """A model.onnx under ONNX Runtime. It has one signature, `serving_default`: the graph's own inputs and outputs."""

    platform = "onnxruntime_onnx"
    advisory_shapes = False

    def __init__(self, path: Path, options: BackendOptions | None = None) -> None:
        """Load the file. Raises DataLoss where it is no ONNX model, FailedPrecondition where a provider is absent."""
        options = options or BackendOptions()
        asked = _providers(options)
        self._session: ort.InferenceSession | None = _open(path, asked, options)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if options.providers and self.providers[0] != asked[0] and not options.allow_cpu_fallback:
            raise FailedPrecondition(
                f"Expected the model to run on {asked[0]}. Received: {self.providers[0]}; the provider's libraries or its "
                "device could not be used."
            )
        self._device = "cuda" if self.providers[0] in _DEVICE_PROVIDERS else ""
        self._device_id = options.device_id
        signature = Signature(
            inputs=tuple(_spec(node) for node in self._session.get_inputs()),
            outputs=tuple(_spec(node) for node in self._session.get_outputs()),
        )
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: signature}
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._strings_in = frozenset(spec.name for spec in signature.inputs if spec.dtype.is_string)
        self._strings_out = frozenset(spec.name for spec in signature.outputs if spec.dtype.is_string)

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """See `Backend.run`. String tensors are object arrays of bytes, which must be UTF-8."""
        session = self._session
        if session is None:
            raise FailedPrecondition("The model has been unloaded.")
        if signature != DEFAULT_SIGNATURE:
            raise SignatureNotFound(signature, (DEFAULT_SIGNATURE,))
        names = outputs or self._outputs
        if self._strings_in:
            inputs = {name: _to_text(name, a) if name in self._strings_in else a for name, a in inputs.items()}
        try:
            if self._device and not self._strings_in and not self._strings_out:
                arrays = self._run_bound(session, inputs, names)
            else:
                arrays = session.run(names, inputs)
        except Exception as error:
            raise _run_error(error) from error
        if self._strings_out:
            arrays = [_to_bytes(a) if name in self._strings_out else a for name, a in zip(names, arrays, strict=True)]
        return dict(zip(names, arrays, strict=True))

    def _run_bound(
        self, session: ort.InferenceSession, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]
    ) -> list[np.ndarray]:
        """Copy the inputs over once, leave the outputs on the device until all are there, and copy them back together."""
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            binding.bind_output(name, self._device, self._device_id)
        session.run_with_iobinding(binding)
        arrays: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return arrays

    def close(self) -> None:
        """Drop the session; its memory arena goes with it."""
        self._session = None


def _providers(options: BackendOptions) -> tuple[str, ...]:
    """The providers to ask ONNX Runtime for, in order."""
    present = ort.get_available_providers()
    if not options.providers:
        return tuple(name for name in _AUTOMATIC if name in present)
    known = ort.get_all_providers()
    absent = [name for name in options.providers if name not in present]
    for name in absent:
        if name not in known:
            raise InvalidArgument(f"Expected execution providers out of {', '.join(known)}. Received: {name}.")
    if absent and not options.allow_cpu_fallback:
        raise FailedPrecondition(
            f"Expected the execution provider {absent[0]}. Received an ONNX Runtime that has only {', '.join(present)}; "
            "install the `gpu` extra, or allow the CPU fallback."
        )
    usable = tuple(name for name in options.providers if name in present)
    return usable if CPU in usable else (*usable, CPU)


def _open(path: Path, providers: tuple[str, ...], options: BackendOptions) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = options.intra_op_threads or options.cpus or available_cpus()
    settings.inter_op_num_threads = 1
    # A spinning pool burns the CPUs that the event loop needs between two batches.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    configured: list[Any] = [
        (name, {"device_id": options.device_id}) if name in _DEVICE_PROVIDERS else name for name in providers
    ]
    if not path.is_file():
        raise DataLoss(f"Expected a file {path.name}. Received: none.")
    if any(name in _DEVICE_PROVIDERS for name in providers):
        ort.preload_dlls()  # CUDA and cuDNN are wheels beside ours, in folders that the loader does not search
    try:
        return ort.InferenceSession(str(path), settings, providers=configured)
    except Exception as error:
        raise DataLoss(f"{path.name} is no model ONNX Runtime can load: {_reason(error, path)}") from error


def _spec(node: Any) -> TensorSpec:
    """One input or output of the graph. A named or unknown axis is variable."""
    try:
        dtype = BY_ORT[node.type]
    except KeyError:
        raise InvalidArgument(
            f"{node.name}: expected an element type out of {', '.join(BY_ORT)}. Received: {node.type}."
        ) from None
    # For a tensor of unknown rank ONNX Runtime says [], as it does for a scalar; what it refuses, it refuses when it runs.
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else DYNAMIC for axis in node.shape) or None
    return TensorSpec(node.name, dtype, shape)


def _to_text(name: str, array: np.ndarray) -> np.ndarray:
    """Turn bytes into str, which is what ONNX Runtime's Python binding takes."""
    flat = np.empty(array.size, dtype=object)
    try:
        for i, value in enumerate(array.flat):
            flat[i] = value if isinstance(value, str) else bytes(value).decode("utf-8")
    except (UnicodeDecodeError, TypeError) as error:
        raise InvalidArgument(f"{name}: expected strings of UTF-8 bytes. Received: {error}.") from None
    return flat.reshape(array.shape)


def _to_bytes(array: np.ndarray) -> np.ndarray:
    flat = np.empty(array.size, dtype=object)
    for i, value in enumerate(array.flat):
        flat[i] = value.encode("utf-8")
    return flat.reshape(array.shape)


_PATHS = re.compile(r"(?:[A-Za-z]:)?(?:/[^\s/:'\"]+)+/?(?::\d+)?")


def _reason(error: Exception, path: Path | None = None) -> str:
    """ONNX Runtime's words on one line, without file names of this machine or of the one that built it."""
    text = str(error)
    if path is not None:
        text = text.replace(str(path), path.name)
    _, _, status = text.partition("Status Message: ")
    return " ".join(_PATHS.sub("", status or text).split())[:500]


def _run_error(error: Exception) -> CornetError:
    """Values the graph refuses (a token id outside the embedding) are the caller's fault; anything else is the runtime's."""
    if isinstance(error, CornetError):
        return error
    if type(error).__name__ == "InvalidArgument":
        return InvalidArgument(f"The model refuses these values: {_reason(error)}")
    _log.error("the model runtime failed", cause=error)
    return Internal("The model runtime failed; the server's log has the cause.")
