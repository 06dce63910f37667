"""One ONNX file in a session: its tensors, and on a device the runs with buffers of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime as ort

from services.engine.device_runs import DeviceRunner
from services.engine.host_memory import BufferPool
from services.errors import InvalidArgument
from services.tensors import BY_ORT, DYNAMIC, Signature, TensorSpec


class OnnxGraph:
    """The function that one file holds.

    `runner` is what runs it on a device, `runners` those for some numbers of rows; without a `runner` the session does.
    """

    __slots__ = (
        "_buffers",
        "_open",
        "outputs",
        "providers",
        "runner",
        "runners",
        "session",
        "signature",
        "strings_in",
        "strings_out",
    )

    def __init__(self, open_session: Callable[[], ort.InferenceSession]) -> None:
        """Open the file. Raises what `open_session` does, and InvalidArgument for an element type outside the table."""
        self._open = open_session
        self.session = open_session()
        self.providers: tuple[str, ...] = tuple(self.session.get_providers())
        self.signature = Signature(
            inputs=tuple(_spec(node) for node in self.session.get_inputs()),
            outputs=tuple(_spec(node) for node in self.session.get_outputs()),
        )
        self.outputs = tuple(spec.name for spec in self.signature.outputs)
        self.strings_in = frozenset(spec.name for spec in self.signature.inputs if spec.dtype.is_string)
        self.strings_out = frozenset(spec.name for spec in self.signature.outputs if spec.dtype.is_string)
        self.runner: DeviceRunner | None = None
        self.runners: dict[int, DeviceRunner] = {}
        self._buffers: tuple[BufferPool, int | None] | None = None

    @property
    def has_strings(self) -> bool:
        return bool(self.strings_in or self.strings_out)

    def bind(self, pool: BufferPool, device_index: int | None) -> None:
        """Run with buffers of `pool` from here on, as `DeviceRunner` says; nothing changes for a graph of strings."""
        if not self.has_strings:
            self._buffers = pool, device_index
            self.runner = DeviceRunner(self.session, self.signature, pool, device_index)

    def specialise(self, sizes: Sequence[int]) -> None:
        """Have a session for each of these numbers of rows but the last; nothing for a graph that is not bound."""
        if self._buffers is None:
            return
        pool, device_index = self._buffers
        for rows in sizes[:-1]:
            self.runners[rows] = DeviceRunner(self._open(), self.signature, pool, device_index)


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
