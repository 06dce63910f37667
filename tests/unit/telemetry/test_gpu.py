"""GPUs through a stand-in for NVIDIA's library: there may be none where the tests run."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.telemetry import gpu as gpu_module
from services.telemetry.families import families
from services.telemetry.gpu import Gpus
from services.telemetry.tables import Tables


class NVMLError(Exception):
    """The library's own base."""


def refuse(_: object) -> None:
    raise NVMLError("Not Supported")


@pytest.fixture
def library() -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetUUID=lambda _: "GPU-1",
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=75),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=2000, used=500),
        nvmlDeviceGetPowerUsage=lambda _: 70500,
        nvmlDeviceGetPowerManagementLimit=lambda _: 300000,
        nvmlDeviceGetTotalEnergyConsumption=refuse,
    )


def test_units_are_ratios_bytes_watts_and_joules_and_what_a_gpu_cannot_tell_is_none(library: SimpleNamespace):
    [gpu] = Gpus(library, ["handle"]).read()
    assert (gpu.uuid, gpu.utilization, gpu.memory_used_bytes, gpu.power_watts) == ("GPU-1", 0.75, 500, 70.5)
    assert gpu.energy_joules is None


def test_a_gpu_s_series_are_exposed(library: SimpleNamespace):
    found = {family.name: family.samples for family in families(Tables(), Gpus(library, ["handle"]).read())}
    [sample] = found["cornet_gpu_utilization_ratio"]
    assert (sample.labels, sample.value) == ({"gpu": "0", "uuid": "GPU-1"}, 0.75)
    assert found["cornet_gpu_memory_total_bytes"][0].value == 2000


def test_without_a_gpu_there_is_no_series_of_one():
    assert not [family for family in families(Tables(), Gpus().read()) if family.name.startswith("cornet_gpu")]


def test_a_machine_without_a_driver_has_no_gpus_and_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(gpu_module, "_DRIVER", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace())  # any question to it would be an AttributeError
    assert Gpus.find().read() == []


def test_a_machine_whose_driver_does_not_answer_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(gpu_module, "_DRIVER", (str(tmp_path),))
    pynvml = pytest.importorskip("pynvml")

    def fail() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert Gpus.find().read() == []
