import ctypes
import gc
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from services.engine.host_memory import BufferPool, PageableMemory, PinnedMemory, host_memory

PAGE = 4096
F4 = np.dtype(np.float32)


class CountedMemory(PageableMemory):
    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[int] = []
        self.freed: list[int] = []

    def allocate(self, nbytes: int) -> int | None:
        self.allocated.append(nbytes)
        return super().allocate(nbytes)

    def free(self, address: int) -> None:
        self.freed.append(address)
        super().free(address)


@pytest.fixture
def memory() -> CountedMemory:
    return CountedMemory()


@pytest.fixture
def pool(memory: CountedMemory) -> BufferPool:
    return BufferPool(memory)


def test_a_buffer_is_used_again_once_its_array_is_gone(pool, memory):
    first = pool.take(100).array((25,), F4)
    address = first.ctypes.data
    del first
    assert pool.take(100).array((25,), F4).ctypes.data == address
    assert memory.allocated == [PAGE]


def test_a_view_of_a_view_keeps_the_buffer(pool):
    array = pool.take(400).array((10, 10), F4)
    row = array[3:4][0]
    del array
    assert pool.leased == 1
    del row
    assert pool.leased == 0


def test_buffers_in_use_at_the_same_time_are_not_the_same(pool):
    arrays = [pool.take(PAGE).array((PAGE // 4,), F4) for _ in range(3)]
    for value, array in enumerate(arrays):
        array[:] = value
    assert [set(array) for array in arrays] == [{0.0}, {1.0}, {2.0}]


@pytest.mark.parametrize(
    ("nbytes", "capacity"),
    [
        (0, PAGE),
        (1, PAGE),
        (PAGE, PAGE),
        (PAGE + 1, 2 * PAGE),
        (1 << 20, 1 << 20),
        ((1 << 20) + 1, (1 << 20) + (1 << 17)),
    ],
)
def test_a_size_is_rounded_to_pages_and_by_an_eighth_at_most(pool, memory, nbytes, capacity):
    pool.take(nbytes)
    assert memory.allocated == [capacity]


def test_batches_of_like_size_share_buffers(pool, memory):
    for rows in range(61, 65):
        pool.take(rows * 1024)
    assert memory.allocated == [64 * 1024]


def test_an_empty_array_and_a_scalar_have_buffers_too(pool):
    assert pool.take(0).array((0, 3), F4).shape == (0, 3)
    assert pool.take(4).array((), F4).shape == ()


def test_beyond_its_bound_the_pool_gives_none():
    pool = BufferPool(PageableMemory(), limit_bytes=2 * PAGE)
    kept = [pool.take(PAGE), pool.take(PAGE)]
    assert pool.take(PAGE) is None
    kept.pop()
    assert pool.take(PAGE) is not None


def test_idle_buffers_make_room_for_those_of_another_size(memory):
    pool = BufferPool(memory, limit_bytes=4 * PAGE)
    for _ in range(2):
        pool.take(PAGE)
    pool.take(2 * PAGE)
    assert pool.take(4 * PAGE) is not None
    assert pool.allocated_bytes == 4 * PAGE
    assert len(memory.freed) == 2


def test_a_machine_that_has_no_more_memory_is_no_error():
    class Full(PageableMemory):
        def allocate(self, nbytes: int) -> int | None:
            return None

    pool = BufferPool(Full())
    assert pool.take(1) is None
    assert pool.allocated_bytes == 0


def test_a_spoiled_buffer_is_freed_and_not_used_again(pool, memory):
    lease = pool.take(1)
    lease.spoil()
    del lease
    assert pool.allocated_bytes == 0
    assert len(memory.freed) == 1


def test_a_closed_pool_frees_what_is_idle_at_once_and_the_rest_when_it_comes_back(pool, memory):
    used = pool.take(PAGE).array((4,), F4)
    pool.take(2 * PAGE)
    pool.close()
    assert len(memory.freed) == 1
    assert pool.take(1) is None
    used[:] = 1  # still there
    del used
    assert len(memory.freed) == 2


def test_threads_never_get_one_buffer_twice(pool):
    def work(value: int) -> bool:
        whole = True
        for _ in range(300):
            array = pool.take(64).array((16,), F4)
            array[:] = value
            whole &= bool((array == value).all())
        return whole

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))
    assert pool.leased == 0


def test_leases_may_end_in_a_garbage_collection(pool):
    loop: list[object] = [pool.take(1)]
    loop.append(loop)
    del loop
    gc.collect()
    assert pool.leased == 0


class CudaRuntime:
    """The functions of libcudart that are used. `status` is what an allocation answers."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.calls: list[tuple[str, int]] = []
        self._buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def cudaSetDevice(self, index: ctypes.c_int) -> int:
        self.calls.append(("device", index.value))
        return 0

    def cudaHostAlloc(self, pointer: "ctypes._CArgObject", nbytes: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
        self.calls.append(("allocate", nbytes.value))
        if self.status == 0:
            buffer = ctypes.create_string_buffer(nbytes.value)
            pointer._obj.value = ctypes.addressof(buffer)
            self._buffers[ctypes.addressof(buffer)] = buffer
        return self.status

    def cudaFreeHost(self, address: ctypes.c_void_p) -> int:
        self.calls.append(("free", 0))
        del self._buffers[address.value or 0]
        return 0

    def cudaGetLastError(self) -> int:
        self.calls.append(("take the error back", 0))
        return self.status


def test_pinned_memory_is_asked_of_the_runtime_for_the_gpu_in_use():
    runtime = CudaRuntime()
    pool = BufferPool(PinnedMemory(runtime, index=3))
    array = pool.take(8).array((2,), F4)
    array[:] = 7
    assert array.tolist() == [7, 7]
    del array
    pool.close()
    assert runtime.calls == [("device", 3), ("allocate", PAGE), ("free", 0)]


def test_a_runtime_that_refuses_leaves_no_error_for_the_next_kernel():
    runtime = CudaRuntime(status=2)
    assert PinnedMemory(runtime).allocate(PAGE) is None
    assert runtime.calls[-1] == ("take the error back", 0)


def test_without_cuda_s_runtime_ordinary_memory_serves(monkeypatch, caplog):
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with caplog.at_level(logging.WARNING):
        assert isinstance(host_memory("cuda"), PageableMemory)
    assert "no CUDA runtime found" in caplog.text


def test_the_cpu_needs_no_pinned_memory():
    assert isinstance(host_memory("cpu"), PageableMemory)
