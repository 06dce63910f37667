"""What a GPU adds to running a model: the provider's options, a device that may be lost, errors that are the device's.

A process that lost its GPU (an illegal access, a fault of the memory, a card that fell off the bus) cannot have it back:
CUDA answers every later call with the same error until the process ends. So the loss is remembered for the device, not for
the model that met it.
"""

import re
from dataclasses import dataclass
from typing import Literal

from services.errors import CornetError, ResourceExhausted, Unavailable
from services.telemetry.log import get_logger

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
DEVICE_PROVIDERS = (TENSORRT, CUDA)

ConvSearch = Literal["heuristic", "exhaustive", "default"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a model uses its GPU.

    `index`: which one. `memory_bytes`: most memory of one model's arena, beside its weights; 0 for no bound. `tf32`: let
    float32 matrix products and convolutions round their inputs to TensorFloat-32 (10 bits of mantissa, a relative error of
    about 1e-3 in place of 1e-6), which is several times as fast and not what an export's parity was proven with.
    `conv_search`: how cuDNN chooses its convolutions; `exhaustive` times them all at the first run of every new shape.
    `runs`: how many at a time; each has its own thread and CUDA stream.
    """

    index: int = 0
    memory_bytes: int = 0
    tf32: bool = False
    conv_search: ConvSearch = "heuristic"
    runs: int = 2

    def of_provider(self, name: str) -> dict[str, str]:
        """What ONNX Runtime is told of an execution provider."""
        if name not in DEVICE_PROVIDERS:
            return {}
        options = {"device_id": str(self.index)}
        if name == CUDA:
            options |= {
                "arena_extend_strategy": "kSameAsRequested",  # powers of two may take twice what the models need
                "cudnn_conv_algo_search": self.conv_search.upper(),
                "use_tf32": str(int(self.tf32)),
            }
            if self.memory_bytes:
                options["gpu_mem_limit"] = str(self.memory_bytes)
        return options


class Device:
    """One device of this process. `lost` says why it is no longer to be had."""

    def __init__(self, kind: str, index: int = 0) -> None:
        self.kind = kind
        self.index = index
        self.lost: str | None = None

    def check(self) -> None:
        """Raises Unavailable where the device is lost."""
        if self.lost is not None:
            raise Unavailable("The server has lost its GPU and must be restarted.")

    def judge(self, message: str, rows: int) -> CornetError | None:
        """The error that ONNX Runtime's words amount to where the device is behind it; None where it is not.

        Raises nothing. A loss is logged once, and holds from then on.
        """
        if self.kind != "cpu" and _LOST.search(message):
            if self.lost is None:
                self.lost = message
                _log.error("the GPU is lost: restart this process", gpu=self.index, reason=message)
            return Unavailable("The server has lost its GPU and must be restarted.")
        if exhausted(message):
            _log.warning("out of memory in a run", device=self.kind, gpu=self.index, rows=rows, reason=message)
            return ResourceExhausted(
                f"Expected a run that fits into the memory left. Received: {rows} rows. Send fewer at a time, or try again "
                "later."
            )
        return None


def exhausted(message: str) -> bool:
    """Whether ONNX Runtime's words say that there is no memory left."""
    return _EXHAUSTED.search(message) is not None


_devices: dict[tuple[str, int], Device] = {}


def device_of(provider: str, index: int) -> Device:
    """The device that an execution provider runs on, the same object for every model on it."""
    kind, index = ("cuda", index) if provider in DEVICE_PROVIDERS else ("cpu", 0)
    return _devices.setdefault((kind, index), Device(kind, index))


_EXHAUSTED = re.compile(
    r"Failed to allocate memory for requested buffer|Available memory of \d+ is smaller than requested|"
    r"CUDA failure 2\b|out of memory|ALLOC(?:ATION)?_FAILED|bad_alloc",
    re.IGNORECASE,
)
"""ONNX Runtime's arena, CUDA's cudaErrorMemoryAllocation, cuBLAS and cuDNN, and C++."""

_LOST = re.compile(
    r"CUDA (?:failure|error) (?:3|4|46|100|101|214|219|220|700|702|709|710|714|715|716|717|718|719|720|721|999)\b|"
    r"illegal memory access|unspecified launch failure|uncorrectable ECC|device-side assert|"
    r"CUDA-capable devices? (?:is|are) (?:detected|busy)|NVLINK error|context is destroyed"
)
"""CUDA's errors after which no call succeeds (`cudaError_t` in the runtime's documentation): a context that is gone, a device
that is not there, a fault of its memory, and every failure of a kernel."""
