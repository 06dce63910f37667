"""GPUs as NVIDIA's management library sees them; none where there is no driver, no GPU or no `nvidia-ml-py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from services.telemetry.log import get_logger

_log = get_logger(__name__)

_DRIVER = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")
"""What a machine with NVIDIA's driver has one of; the last one is Windows' under WSL."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at this moment; None where its kind cannot tell. Power in watts, energy in joules since the driver loaded."""

    index: int
    uuid: str
    utilization: float | None
    """Share of the last sample period in which something ran, 0 to 1."""
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    power_watts: float | None
    power_limit_watts: float | None
    energy_joules: float | None


class Gpus:
    """The GPUs of the machine. `find` looks for them; one made by hand has none."""

    def __init__(self, library: Any = None, handles: Sequence[Any] = ()) -> None:
        self._library = library
        self._handles = tuple(handles)

    @classmethod
    def find(cls) -> Self:
        """All that there are. A machine without NVIDIA's driver has none, and that is no error."""
        if not any(Path(path).exists() for path in _DRIVER):
            return cls()  # importing the library costs a server a sixteenth of its start
        try:
            import pynvml  # type: ignore[import-untyped]  # the library has no types
        except ImportError:
            return cls()
        try:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            _log.debug("no GPU is watched", reason=str(error))
            return cls()
        return cls(pynvml, handles)

    def read(self) -> list[GpuReading]:
        """What each GPU says of itself: a millisecond or less."""
        return [self._read(index, handle) for index, handle in enumerate(self._handles)]

    def _read(self, index: int, handle: Any) -> GpuReading:
        nvml = self._library
        uuid = self._ask(nvml.nvmlDeviceGetUUID, handle)
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        return GpuReading(
            index,
            uuid.decode() if isinstance(uuid, bytes) else str(uuid or index),
            None if rates is None else rates.gpu / 100,
            None if memory is None else memory.total,
            None if memory is None else memory.used,
            _thousandth(self._ask(nvml.nvmlDeviceGetPowerUsage, handle)),
            _thousandth(self._ask(nvml.nvmlDeviceGetPowerManagementLimit, handle)),
            _thousandth(self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
        )

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        """The answer, None where this GPU has none."""
        try:
            return question(handle)
        except self._library.NVMLError:
            return None


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000
