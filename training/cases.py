"""The inputs that an export is tried on: held-out rows one by one and together, and in every length that is free."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from services.tensors import DYNAMIC, Signature, TensorSpec
from training.pipeline import Arrays

Run = Callable[[Arrays], dict[str, np.ndarray]]
"""Answers by output name to inputs by name."""

SINGLE_ROWS = 5
"""How many rows are also sent one at a time."""
SMALLEST_BATCH = 3
"""Fewer held-out rows than this are repeated, so that a batch of several rows is always tried."""


@dataclass(frozen=True)
class Case:
    """Inputs, Keras's answers to them, and whether the inputs carry padding that the answers were computed without."""

    title: str
    inputs: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    padded: bool = False


def cases_of(
    run: Run, signature: Signature, samples: Arrays, *, padding: bool, refusals: tuple[type[Exception], ...]
) -> Iterator[Case]:
    """The held-out rows as they are, and cut to other lengths where an axis is free, each with what `run` answers to them.

    `padding`: zeros at the end of a free axis must not change an answer. `refusals`: what `run` raises for a length that the
    model does not take.
    """
    inputs = {spec.name: samples[spec.name] for spec in signature.inputs}
    yield Case("held-out rows as they are", inputs, run(inputs))
    if not any(DYNAMIC in _inner(spec) for spec in signature.inputs):
        return
    fixed_outputs = not any(DYNAMIC in _inner(spec) for spec in signature.outputs)
    for title, share in (("length 1", 0.0), ("half the length", 0.5)):
        short = {spec.name: _cut(inputs[spec.name], spec, share) for spec in signature.inputs}
        try:
            answers = run(short)
        except refusals:  # a convolution without padding needs a shortest length: that is the model's own
            continue
        yield Case(title, short, answers)
        if padding and fixed_outputs:
            padded = {name: _pad(rows, inputs[name].shape) for name, rows in short.items()}
            yield Case(f"{title}, padded", padded, answers, padded=True)


def row_batches(count: int) -> list[np.ndarray]:
    """Row numbers: the largest odd number of rows at once, what remains, then a few rows one at a time."""
    rows = np.arange(max(count, SMALLEST_BATCH)) % count
    odd = len(rows) - (len(rows) + 1) % 2
    singles = [np.array([row]) for row in range(min(count, SINGLE_ROWS))]
    return [batch for batch in (rows[:odd], rows[odd:]) if len(batch)] + singles


def _inner(spec: TensorSpec) -> tuple[int, ...]:
    return (spec.shape or ())[1:]


def _cut(rows: np.ndarray, spec: TensorSpec, share: float) -> np.ndarray:
    """The start of every free axis: that share of it, at least one element."""
    lengths = [
        max(1, int(have * share)) if want == DYNAMIC else have
        for want, have in zip(_inner(spec), rows.shape[1:], strict=True)
    ]
    return rows[(slice(None), *(slice(length) for length in lengths))]


def _pad(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.zeros(shape, rows.dtype)
    padded[tuple(slice(length) for length in rows.shape)] = rows
    return padded
