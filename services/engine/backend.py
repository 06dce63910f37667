"""The model runtime: named arrays in, named arrays out.

    backend = OnnxBackend(Path("exported_models/regressor/1/model.onnx"), BackendOptions())
    backend.run("serving_default", {"features": rows}, ("prediction",))      # {"prediction": float32 [B, 1]}

A backend knows nothing of versions, batching or protocols; the parity gate of training and batch jobs use it directly.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from services.cpus import available_cpus
from services.engine.device import CPU, CUDA, DEVICE_PROVIDERS, GpuOptions, device_of, exhausted
from services.engine.device_threads import DeviceThreads
from services.engine.graph import OnnxGraph
from services.engine.host_memory import BufferPool, host_memory
from services.errors import (
    CornetError,
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    SignatureNotFound,
)
from services.telemetry.log import get_logger
from services.tensors import DEFAULT_SIGNATURE, Signature

__all__ = ["CPU", "Backend", "BackendOptions", "OnnxBackend", "available_cpus"]

_AUTOMATIC = (CUDA, CPU)
_QUIET = 4  # ONNX Runtime's FATAL: what goes wrong is raised, and logged once, by us
_ASSIGNMENT = "get_provider_graph_assignment_info"  # not in every ONNX Runtime that may be installed
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})

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

    @property
    def threads(self) -> DeviceThreads | None:
        """The threads that should run it, none of them the event loop's; None where any thread may."""
        ...

    @property
    def healthy(self) -> bool:
        """False once its device is lost, for good."""
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
    as many as `cpus`, which is how many the process may count on, 0 for all that it may use. `gpu`: see there. `as_device`:
    run on the CPU as on a GPU, with threads and buffers of the model's own.
    """

    providers: tuple[str, ...] = ()
    intra_op_threads: int = 0
    allow_cpu_fallback: bool = False
    cpus: int = 0
    gpu: GpuOptions = field(default_factory=GpuOptions)
    as_device: bool = False


class OnnxBackend:
    """ONNX files under ONNX Runtime: one signature each, the graph's own inputs and outputs.

    They share the device, its threads and its buffers; every file has a session of its own.
    """

    platform = "onnxruntime_onnx"
    advisory_shapes = False

    def __init__(self, files: Path | Mapping[str, Path], options: BackendOptions | None = None) -> None:
        """`files`: a model.onnx, which then is `serving_default`, or the file of each signature; some may share one.

        `providers` are those of the file that has it worst, where some had to fall back. Raises DataLoss where one is no ONNX
        model, FailedPrecondition where a provider is absent, or cannot be used for one of the files.
        """
        options = options or BackendOptions()
        asked = _providers(options)
        paths = {DEFAULT_SIGNATURE: files} if isinstance(files, Path) else files
        opened = {path: OnnxGraph(partial(_open, path, asked, options)) for path in dict.fromkeys(paths.values())}
        self._graphs = {signature: opened[path] for signature, path in paths.items()}
        self._distinct = tuple(opened.values())
        self.signatures: Mapping[str, Signature] = {key: graph.signature for key, graph in self._graphs.items()}
        self.providers: tuple[str, ...] = max(
            (graph.providers for graph in self._distinct),
            key=lambda providers: (providers[0] == CPU, providers[0] != asked[0]),
        )
        on_gpu = [graph for graph in self._distinct if graph.providers[0] in DEVICE_PROVIDERS]
        self._device = device_of((on_gpu or self._distinct)[0].providers[0], options.gpu.index)
        self.threads = DeviceThreads(options.gpu.runs) if on_gpu or options.as_device else None
        self._pool: BufferPool | None = None
        self._short_of_memory = False
        if self.threads is not None and not all(graph.has_strings for graph in self._distinct):
            self._pool = BufferPool(host_memory(self._device.kind, self._device.index))
            for graph in self._distinct:
                graph.bind(self._pool, options.gpu.index if graph in on_gpu else None)
        self.convolves = any(_convolves(graph.session) for graph in on_gpu)
        self._open = True

    @property
    def healthy(self) -> bool:
        return self._device.lost is None

    def specialise(self, sizes: Sequence[int]) -> None:
        """Have a session of its own, with its own copy of the weights, for each of these numbers of rows.

        ONNX Runtime keeps cuDNN's plan of a convolution for the last shape only, and makes another, in tens of milliseconds
        each, whenever the number of rows changes (`Conv::UpdateState` in its CUDA provider).
        """
        for graph in self._distinct:
            graph.specialise(sizes)

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        """See `Backend.run`. String tensors are object arrays of bytes, which must be UTF-8."""
        graph = self._graphs.get(signature)
        if graph is None:
            if not self._open:
                raise FailedPrecondition("The model has been unloaded.")
            raise SignatureNotFound(signature, tuple(self.signatures))
        names = outputs or graph.outputs
        if graph.strings_in:
            inputs = {name: _to_text(name, a) if name in graph.strings_in else a for name, a in inputs.items()}
        try:
            runner = graph.runner
            if runner is None:
                arrays = graph.session.run(names, inputs)
            else:
                self._device.check()
                runner = graph.runners.get(_rows(inputs), runner)
                arrays = runner.run(inputs, names, shrink=self._short_of_memory)
                self._short_of_memory = False
        except Exception as error:
            raise self._reported(error, inputs) from error
        if graph.strings_out:
            arrays = [_to_bytes(a) if name in graph.strings_out else a for name, a in zip(names, arrays, strict=True)]
        return dict(zip(names, arrays, strict=True))

    def close(self) -> None:
        """Drop the sessions, whose memory goes with them, and the buffers and threads. What runs is finished first."""
        self._open = False
        self._graphs = {}
        self._distinct = ()
        if self._pool is not None:
            self._pool.close()
        if self.threads is not None:
            self.threads.close()

    def _reported(self, error: Exception, inputs: Mapping[str, np.ndarray]) -> CornetError:
        """The error to raise for what ONNX Runtime raised."""
        if isinstance(error, CornetError):
            return error
        judged = self._device.judge(str(error), _rows(inputs))
        if judged is None:
            return _run_error(error)
        self._short_of_memory = isinstance(judged, ResourceExhausted)
        return judged


def _rows(inputs: Mapping[str, np.ndarray]) -> int:
    shape = next(iter(inputs.values())).shape if inputs else ()
    return shape[0] if shape else 1


def _convolves(session: ort.InferenceSession) -> bool:
    """Whether any convolution is on the GPU. The session must have been told to record where its nodes are."""
    parts = session.get_provider_graph_assignment_info() if hasattr(session, _ASSIGNMENT) else []
    counted = {part.ep_name: 0 for part in parts}
    for part in parts:
        counted[part.ep_name] += len(part.get_nodes())
    _log.info("nodes by execution provider", **counted)
    return any(
        node.op_type in _CONVOLUTIONS for part in parts if part.ep_name in DEVICE_PROVIDERS for node in part.get_nodes()
    )


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
    """A session of a file. ONNX Runtime falls back to another provider by itself, for any of them: that is seen here."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = options.intra_op_threads or options.cpus or available_cpus()
    settings.inter_op_num_threads = 1
    # A spinning pool burns the CPUs that the event loop needs between two batches, and those that another process does:
    # on two busy CPUs it cost 64 rows of a transformer 68 ms of CPU time instead of 44, and gained no time. Where nothing
    # else runs it would wake the second thread sooner (64 rows of a small CNN: 154 us instead of 192).
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    configured: list[Any] = [(name, options.gpu.of_provider(name)) for name in providers]
    on_gpu = any(name in DEVICE_PROVIDERS for name in providers)
    if not path.is_file():
        raise DataLoss(f"Expected a file {path.name}. Received: none.")
    if on_gpu:
        settings.add_session_config_entry(
            "session.use_device_allocator_for_initializers", "1"
        )  # the arena can then shrink
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        ort.preload_dlls()  # CUDA and cuDNN are wheels beside ours, in folders that the loader does not search
    try:
        session = ort.InferenceSession(str(path), settings, providers=configured)
    except Exception as error:
        if exhausted(str(error)):
            raise ResourceExhausted(f"Expected memory for {path.name}. Received: {_reason(error, path)}") from error
        raise DataLoss(f"{path.name} is no model ONNX Runtime can load: {_reason(error, path)}") from error
    used = session.get_providers()[0]
    if used != providers[0]:
        if options.providers and not options.allow_cpu_fallback:
            raise FailedPrecondition(
                f"Expected {path.name} to run on {providers[0]}. Received: {used}; the provider's libraries or its device "
                "could not be used."
            )
        _log.warning("an execution provider cannot be used", file=path.name, asked=providers[0], used=used)
    return session


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
    if type(error).__name__ == "InvalidArgument":
        return InvalidArgument(f"The model refuses these values: {_reason(error)}")
    _log.error("the model runtime failed", cause=error)
    return Internal("The model runtime failed; the server's log has the cause.")
