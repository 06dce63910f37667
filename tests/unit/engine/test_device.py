import logging
import threading

import pytest

from services.engine.device import CPU, CUDA, TENSORRT, Device, GpuOptions, device_of
from services.engine.device_threads import DeviceThreads
from services.errors import ResourceExhausted, Unavailable

FULL = (
    "Non-zero status code returned while running Conv node. Failed to allocate memory for requested buffer of size 9",
    "Available memory of 1024 is smaller than requested bytes of 4096",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    "CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
    "std::bad_alloc",
)
LOST = (
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize(stream);",
    "CUDA failure 719: unspecified launch failure ; GPU=0",
    "CUDA failure 214: uncorrectable ECC error encountered ; GPU=0",
    "CUDA failure 100: no CUDA-capable device is detected ; GPU=0",
    "CUDA error 46: CUDA-capable device(s) is/are busy or unavailable",
)
OTHERS = (
    "CUDA failure 1: invalid argument ; GPU=0",
    "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED",
    "idx=99 must be within",
)


@pytest.mark.parametrize("message", FULL)
def test_a_run_for_which_there_is_no_memory_is_refused_and_the_device_lives(message):
    device = Device("cuda")
    error = device.judge(message, 64)
    assert isinstance(error, ResourceExhausted)
    assert "Received: 64 rows" in str(error)
    assert device.lost is None
    device.check()


@pytest.mark.parametrize("message", LOST)
def test_an_error_after_which_cuda_answers_nothing_loses_the_device(message):
    device = Device("cuda")
    assert isinstance(device.judge(message, 1), Unavailable)
    assert device.lost == message
    with pytest.raises(Unavailable, match="must be restarted"):
        device.check()


@pytest.mark.parametrize("message", OTHERS)
def test_other_errors_are_not_the_device_s(message):
    device = Device("cuda")
    assert device.judge(message, 1) is None
    assert device.lost is None


@pytest.mark.parametrize("message", LOST)
def test_the_cpu_is_never_lost(message):
    device = Device("cpu")
    assert device.judge(message, 1) is None
    assert device.lost is None


def test_a_loss_is_logged_once_with_its_reason(caplog):
    device = Device("cuda", 2)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            device.judge(LOST[0], 1)
    assert len(caplog.records) == 1
    assert "the GPU is lost" in caplog.text
    assert "illegal memory access" in str(vars(caplog.records[0]))


def test_every_model_on_a_gpu_has_the_same_device():
    assert device_of(CUDA, 1) is device_of(TENSORRT, 1)
    assert device_of(CUDA, 1) is not device_of(CUDA, 0)
    assert device_of(CPU, 1) is device_of(CPU, 0)


@pytest.mark.parametrize(
    ("provider", "options", "told"),
    [
        (CPU, GpuOptions(index=1), {}),
        (TENSORRT, GpuOptions(index=1, tf32=True), {"device_id": "1"}),
        (
            CUDA,
            GpuOptions(),
            {
                "device_id": "0",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",
            },
        ),
        (
            CUDA,
            GpuOptions(index=2, memory_bytes=1 << 30, tf32=True, conv_search="exhaustive"),
            {
                "device_id": "2",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "use_tf32": "1",
                "gpu_mem_limit": "1073741824",
            },
        ),
    ],
)
def test_a_provider_is_told_what_concerns_it(provider, options, told):
    assert options.of_provider(provider) == told


def test_each_thread_of_a_device_has_its_turn():
    threads = DeviceThreads(3)
    assert len(set(threads.on_each(threading.get_ident))) == 3
    threads.close()


def test_what_fails_on_a_thread_is_raised():
    threads = DeviceThreads(2)
    with pytest.raises(ZeroDivisionError):
        threads.on_each(lambda: 1 // 0)
    threads.close()


def test_closed_threads_take_no_more_and_finish_what_runs():
    threads = DeviceThreads(1)
    gate = threading.Event()
    running = threads.submit(gate.wait)
    threads.close()
    with pytest.raises(RuntimeError):
        threads.submit(gate.wait)
    gate.set()
    assert running.result() is True
