"""Host buffers that a GPU copies from and to: taken for one run, handed on as arrays, used again once nobody reads them.

    pool = BufferPool(host_memory("cuda"))
    lease = pool.take(nbytes)
    array = lease.array((64, 512), np.dtype(np.float32))     # and views of it, wherever they go
    ...                                                      # the bytes are the pool's again when the last of them is gone

Pinned (page-locked) memory is what a GPU's copy engine reads and writes by itself, while kernels run and while the CPU
does something else; from other memory the driver copies through a small buffer of its own and the caller waits. ONNX
Runtime's Python API gives pinned memory only where an allocator for it was registered, which depends on its version and on
how the provider was built. So it is asked of the CUDA runtime that the provider itself has loaded; the driver knows such
memory by its address, whoever got it.
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np

from services.telemetry.log import get_logger

POOL_BYTES = 256 << 20
"""Most pinned memory of one model. Pages that are pinned are lost to everything else on the machine."""

_PAGE_BYTES = 4096
_STEPS_BITS = 3  # a size is rounded up by an eighth at most, so that batches of like size share buffers
_CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
_PORTABLE = 1  # cudaHostAllocPortable: pinned for every context of the process

_log = get_logger(__name__)


class HostMemory(Protocol):
    """Where buffers come from. Both methods may be called from any thread."""

    def allocate(self, nbytes: int) -> int | None:
        """The address of so many bytes; None where there are no more."""
        ...

    def free(self, address: int) -> None: ...


class PageableMemory:
    """Ordinary memory, for a device that shares it with the CPU, and for tests."""

    def __init__(self) -> None:
        self._arrays: dict[int, np.ndarray] = {}

    def allocate(self, nbytes: int) -> int | None:
        array = np.empty(nbytes, np.uint8)
        address: int = array.ctypes.data
        self._arrays[address] = array
        return address

    def free(self, address: int) -> None:
        self._arrays.pop(address, None)


class PinnedMemory:
    """Page-locked memory of the CUDA runtime, `library` being its shared library; `index` is the GPU's."""

    def __init__(self, library: Any, index: int = 0) -> None:
        self._library = library
        self._index = index

    def allocate(self, nbytes: int) -> int | None:
        address = ctypes.c_void_p()
        self._library.cudaSetDevice(ctypes.c_int(self._index))  # else a thread's first call makes a context on GPU 0
        status = self._library.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(nbytes), ctypes.c_uint(_PORTABLE))
        if status == 0:
            return address.value
        self._library.cudaGetLastError()  # takes the error back: ONNX Runtime would find it and blame its next kernel
        return None

    def free(self, address: int) -> None:
        """Waits until the GPU has done with it."""
        self._library.cudaFreeHost(ctypes.c_void_p(address))


def host_memory(device: str, index: int = 0) -> HostMemory:
    """Memory to exchange data with a device by: pinned for `cuda`, where the CUDA runtime can be had."""
    if device == "cuda":
        for name in _CUDA_RUNTIMES:
            try:
                return PinnedMemory(ctypes.CDLL(name), index)
            except OSError:
                continue
        _log.warning("no CUDA runtime found to pin memory with: copies to the GPU will hold up the runs")
    return PageableMemory()


class Lease:
    """Bytes of a pool that an array lives in. They go back with the last reference to it: numpy's views keep it."""

    __slots__ = ("__array_interface__", "__weakref__", "_address", "_capacity", "_pool", "_spoiled")

    def __init__(self, pool: "BufferPool", address: int, capacity: int) -> None:
        self._pool = pool
        self._address = address
        self._capacity = capacity
        self._spoiled = False
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (capacity,), "data": (address, False)}

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
        """The buffer's first bytes as an array of that form, with whatever values they have."""
        nbytes = prod(shape) * dtype.itemsize
        return np.asarray(self)[:nbytes].view(dtype).reshape(shape)

    def spoil(self) -> None:
        """Never use the bytes again: a run that failed may still have a copy under way."""
        self._spoiled = True

    def __del__(self) -> None:
        self._pool.take_back(self._address, self._capacity, spoiled=self._spoiled)


class BufferPool:
    """Buffers by size, grown by need up to `limit_bytes` in all, beyond which `take` gives none.

    Thread-safe. A lease may end in any thread and at any moment, also while another call holds the lock: what comes back
    goes through a queue that needs none.
    """

    def __init__(self, memory: HostMemory, limit_bytes: int = POOL_BYTES) -> None:
        self._memory = memory
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._idle: dict[int, list[int]] = {}
        self._returned: deque[tuple[int, int, bool]] = deque()
        self._closed = False
        self._bytes = 0
        self._leased = 0

    @property
    def allocated_bytes(self) -> int:
        """In use and idle."""
        with self._lock:
            self._settle()
            return self._bytes

    @property
    def leased(self) -> int:
        """Buffers in use."""
        with self._lock:
            self._settle()
            return self._leased

    def take(self, nbytes: int) -> Lease | None:
        """A buffer of at least so many bytes; None where the bound is reached, the machine has no more, or it is closed."""
        capacity = _rounded(nbytes)
        with self._lock:
            self._settle()
            if self._closed:
                return None
            idle = self._idle.get(capacity)
            address = idle.pop() if idle else self._allocate(capacity)
            if address is None:
                return None
            self._leased += 1
        return Lease(self, address, capacity)

    def take_back(self, address: int, capacity: int, *, spoiled: bool) -> None:
        """A lease has ended."""
        self._returned.append((address, capacity, spoiled))
        if self._closed and self._lock.acquire(blocking=False):  # else who holds it settles, or `close` already has
            try:
                self._settle()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Free what is idle at once, and what is in use when it comes back."""
        with self._lock:
            self._closed = True
            self._settle()
            self._drop_idle(self._bytes)
        with self._lock:
            self._settle()  # what came back meanwhile

    def _settle(self) -> None:
        """Take in what came back."""
        while self._returned:
            address, capacity, spoiled = self._returned.popleft()
            self._leased -= 1
            if spoiled or self._closed:
                self._free(address, capacity)
            else:
                self._idle.setdefault(capacity, []).append(address)

    def _allocate(self, capacity: int) -> int | None:
        excess = self._bytes + capacity - self._limit_bytes
        if excess > 0:
            self._drop_idle(excess)
            if self._bytes + capacity > self._limit_bytes:
                return None
        address = self._memory.allocate(capacity)
        if address is not None:
            self._bytes += capacity
        return address

    def _drop_idle(self, nbytes: int) -> None:
        """Free idle buffers, the largest first, until so many bytes are free or none are left."""
        for capacity in sorted(self._idle, reverse=True):
            while nbytes > 0 and self._idle[capacity]:
                self._free(self._idle[capacity].pop(), capacity)
                nbytes -= capacity

    def _free(self, address: int, capacity: int) -> None:
        self._memory.free(address)
        self._bytes -= capacity


def _rounded(nbytes: int) -> int:
    """The size of the buffer for so many bytes: whole pages, and an eighth too many at most."""
    step = max(_PAGE_BYTES, 1 << max(0, nbytes.bit_length() - 1 - _STEPS_BITS))
    return max(1, -(-nbytes // step)) * step
