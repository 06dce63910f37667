"""Runs of a session with every input and output in a host buffer of its own, which is what a GPU needs to be kept busy.

ONNX Runtime's IOBinding copies an input when it is bound: at once, on CUDA's default stream, and with Python's lock held,
so that neither the next batch nor the server goes on meanwhile. A run over vectors of OrtValues is what IOBinding's own
run comes down to, without that: inputs are copied in the run, on the run's stream, all outputs come back on it together,
and Python is free throughout. Two threads then have one batch copied while the other is computed. A run returns when its
stream is done (`disable_synchronize_execution_providers` is not used: the outputs would be read before they are there).

On the CPU the same runs work, without a copy between devices: that is how the tests run them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import _pybind_state as capi

from services.engine.host_memory import BufferPool, Lease
from services.tensors import DYNAMIC, Signature

Shapes: TypeAlias = tuple[tuple[int, ...], ...]

_SHAPES_KEPT = 4096


class DeviceRunner:
    """A session of which each run has its buffers from `pool`. `run` may be called from several threads at once.

    Outputs go straight into buffers where their shapes are known beforehand: from an earlier run over inputs of the same
    shapes, and only of tensors with one variable axis at most, since a wrong guess then shows in the size, which ONNX
    Runtime checks. The others are allocated by ONNX Runtime. `device_index` is the GPU's, None on the CPU.
    """

    def __init__(
        self, session: ort.InferenceSession, signature: Signature, pool: BufferPool, device_index: int | None = None
    ) -> None:
        self._session = session
        self._pool = pool
        self._dtypes = {spec.name: spec.dtype.numpy for spec in signature.outputs}
        self._guessable = frozenset(
            spec.name for spec in signature.outputs if spec.shape is not None and spec.shape.count(DYNAMIC) <= 1
        )
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...], Shapes], Shapes] = {}
        self._host = capi.OrtDevice(capi.OrtDevice.cpu(), capi.OrtDevice.default_memory(), 0)
        self._plainly = ort.RunOptions()
        self._shrinking = ort.RunOptions()
        if device_index is not None:
            self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{device_index}")

    def run(
        self, inputs: Mapping[str, np.ndarray], names: tuple[str, ...], *, shrink: bool = False
    ) -> list[np.ndarray]:
        """The named outputs. `shrink` gives what the arena has to spare back to the device afterwards.

        Raises what ONNX Runtime does. No buffer of a run that failed is used again.
        """
        sent: list[Lease] = []
        received: list[Lease] = []
        key = (names, tuple(inputs), tuple(array.shape for array in inputs.values()))
        options = self._shrinking if shrink else self._plainly
        try:
            fed = [self._staged(array, sent) for array in inputs.values()]
            known = self._known.get(key)
            if known is not None:
                fetched = self._placed(names, known, received)
                try:
                    values = self._execute(options, list(inputs), fed, names, fetched)
                except Exception as error:
                    if not _guessed_wrong(error):
                        raise
                    self._forget(names)
                    _spoil(received)
                else:
                    return [_where_it_is(array, values[i]) for i, array in enumerate(fetched)]
            values = self._execute(options, list(inputs), fed, names)
            arrays = [_unshared(values[i], fed) for i in range(len(names))]
        except BaseException:
            _spoil([*sent, *received])
            raise
        if self._guessable.issuperset(names) and len(self._known) < _SHAPES_KEPT:
            self._known[key] = tuple(array.shape for array in arrays)
        return arrays

    def _forget(self, names: tuple[str, ...]) -> None:
        """Guess no more for these outputs: their shapes depend on the inputs' values."""
        self._guessable = self._guessable.difference(names)
        self._known = {}

    def _execute(
        self,
        options: ort.RunOptions,
        feeds: list[str],
        fed: Sequence[np.ndarray],
        names: tuple[str, ...],
        fetched: Sequence[np.ndarray] = (),
    ) -> Any:
        """One run. `fetched` are filled where they are given; else the vector returned has the outputs."""
        outputs = _values(fetched)
        self._session.run_with_ortvaluevector(
            options, feeds, _values(fed), list(names), outputs, [self._host] * len(names)
        )
        return outputs

    def _staged(self, array: np.ndarray, leases: list[Lease]) -> np.ndarray:
        """The array in a buffer; itself, or a copy that is contiguous, where the pool has none."""
        lease = self._pool.take(array.nbytes)
        if lease is None:
            return np.ascontiguousarray(array)
        leases.append(lease)
        staged = lease.array(array.shape, array.dtype)
        np.copyto(staged, array)
        return staged

    def _placed(self, names: tuple[str, ...], shapes: Shapes, leases: list[Lease]) -> list[np.ndarray]:
        """An array for every output, in a buffer where the pool has one."""
        arrays = []
        for name, shape in zip(names, shapes, strict=True):
            dtype = self._dtypes[name]
            lease = self._pool.take(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            if lease is not None:
                leases.append(lease)
            arrays.append(np.empty(shape, dtype) if lease is None else lease.array(shape, dtype))
        return arrays


def _where_it_is(array: np.ndarray, value: Any) -> np.ndarray:
    """The array that an output was to be written to; a copy of the output where it lies elsewhere, as a weight may."""
    if value.data_ptr() == _address(array):
        return array
    elsewhere: np.ndarray = value.numpy().copy()
    return elsewhere


def _unshared(value: Any, fed: Sequence[np.ndarray]) -> np.ndarray:
    """An output as an array; a copy where it is one of the inputs, whose buffers have other uses soon."""
    array: np.ndarray = value.numpy()
    return array.copy() if any(_address(one) == _address(array) for one in fed) else array


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _spoil(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.spoil()


def _values(arrays: Sequence[np.ndarray]) -> Any:
    """OrtValues over the arrays' own memory. The arrays must outlive them."""
    vector = capi.OrtValueVector()
    for array in arrays:
        vector.push_back(ort.OrtValue.ortvalue_from_numpy(array)._get_c_value())  # noqa: SLF001 - the vector takes no other
    return vector


def _guessed_wrong(error: Exception) -> bool:
    """Whether a run failed because an output is not of the shape it was expected in (the CPU's words, and a copy's)."""
    words = str(error)
    return "OrtValue provided for output" in words or "size mismatch" in words
