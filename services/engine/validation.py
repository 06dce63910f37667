"""Whether a request's tensors fit a signature, checked before they are queued."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import NoReturn

import numpy as np

from services.errors import InvalidArgument
from services.tensors import DYNAMIC, Signature, TensorSpec

Shape = tuple[int, ...]

_NO_SHAPE: Shape = ()


class SignaturePlan:
    """A signature turned into what a request is compared with, so that the comparison costs little.

    `batchable`: requests may be merged along the first axis. `outputs`: every output, in the signature's order.
    `advisory_shapes`: the model itself judges the shapes, see `Backend.advisory_shapes`; requests of one shape share a run.
    """

    __slots__ = ("_advisory", "_inputs", "_variable", "batchable", "outputs")

    def __init__(self, signature: Signature, *, advisory_shapes: bool = False) -> None:
        self._advisory = advisory_shapes
        self.batchable = bool(signature.inputs) and signature.batchable
        self.outputs = tuple(spec.name for spec in signature.outputs)
        first = 1 if self.batchable else 0
        specs = (replace(spec, shape=None) if advisory_shapes else spec for spec in signature.inputs)
        self._inputs = tuple(_InputPlan(spec, first) for spec in specs)
        self._variable = self.batchable and any(plan.variable for plan in self._inputs)

    def check(self, inputs: Mapping[str, np.ndarray]) -> tuple[int, Hashable]:
        """Rows, and what is equal for requests that may share a run: the lengths of the variable axes.

        Rows is 1 where the signature does not count them. Raises InvalidArgument.
        """
        if len(inputs) != len(self._inputs):
            self._wrong_names(inputs)
        for plan in self._inputs:
            array = inputs.get(plan.name)
            if array is None:
                self._wrong_names(inputs)
            if not plan.fits(array):
                plan.refuse(array)
        if not self.batchable:
            return 1, _NO_SHAPE
        rows = self._rows(inputs)
        if self._advisory:
            return rows, tuple(inputs[plan.name].shape[1:] for plan in self._inputs)
        if not self._variable:
            return rows, _NO_SHAPE
        return rows, tuple(inputs[plan.name].shape[axis] for plan in self._inputs for axis in plan.variable)

    def _rows(self, inputs: Mapping[str, np.ndarray]) -> int:
        rows = -1
        for array in inputs.values():
            if not array.ndim or array.shape[0] != rows:
                if not array.ndim or rows != -1:
                    raise InvalidArgument(
                        f"Expected the same number of rows in every input. Received: {_shapes(inputs)}."
                    )
                rows = array.shape[0]
        if rows == 0:
            raise InvalidArgument(f"Expected at least one row. Received: an empty batch, {_shapes(inputs)}.")
        return rows

    def choose(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The wanted outputs, in the signature's order. Raises InvalidArgument for one that is unknown or named twice."""
        wanted = set(names)
        unknown = sorted(wanted.difference(self.outputs))
        if unknown:
            raise InvalidArgument(
                f"Expected outputs out of {', '.join(self.outputs)}. Received: output tensor alias not found in signature: "
                f"{', '.join(unknown)}."
            )
        if len(wanted) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InvalidArgument(
                f"Expected each output once. Received: duplicate output tensor alias {', '.join(twice)}."
            )
        if len(wanted) == len(self.outputs):
            return self.outputs
        return tuple(name for name in self.outputs if name in wanted)

    def _wrong_names(self, inputs: Mapping[str, np.ndarray]) -> NoReturn:
        required = {plan.name for plan in self._inputs}
        extra = ",".join(sorted(set(inputs) - required))
        missing = ",".join(sorted(required - set(inputs)))
        raise InvalidArgument(
            f"input size does not match signature: expected the inputs {{{','.join(sorted(required))}}}. "
            f"Received: {{{','.join(sorted(inputs))}}}. Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
        )


class _InputPlan:
    """One input: element type, rank, the axes of fixed length, and the variable ones behind the batch."""

    __slots__ = ("dtype", "fixed", "name", "rank", "spec", "variable")

    def __init__(self, spec: TensorSpec, first: int) -> None:
        shape = spec.shape or ()
        self.spec = spec
        self.name = spec.name
        self.dtype = spec.dtype.numpy
        self.rank = len(shape)
        self.fixed = tuple((axis, length) for axis, length in enumerate(shape) if length != DYNAMIC)
        self.variable = tuple(axis for axis, length in enumerate(shape) if length == DYNAMIC and axis >= first)

    def fits(self, array: np.ndarray) -> bool:
        """The quick answer to what `refuse` looks into."""
        shape = array.shape
        if array.dtype != self.dtype or len(shape) != self.rank:
            return False
        for axis, length in self.fixed:  # noqa: SIM110  # all() over a generator costs three times as much
            if shape[axis] != length:
                return False
        return True

    def refuse(self, array: np.ndarray) -> None:
        """Raises InvalidArgument, unless it fits after all: strings in numpy's own types, or a rank the model leaves open."""
        strings = self.spec.dtype.is_string and array.dtype.kind in "SU"
        if (strings or array.dtype == self.dtype) and self.spec.accepts(array.shape):
            return
        received = "string" if array.dtype.kind in "OSU" else array.dtype.name
        raise InvalidArgument(f"Expected {self.spec}. Received: {received} {list(array.shape)}.")


def _shapes(inputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
