"""What another precision costs and brings: distance from float32, the metric on held-out rows, time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from services.engine.backend import CPU, BackendOptions, OnnxBackend
from services.errors import CornetError, ParityError
from services.manifest import LatencyRecord, ParityRecord
from services.parity import Limits, Tolerance, compare, compare_statistics, merge, tolerance_for
from services.tensors import DEFAULT_SIGNATURE, Signature
from training.cases import Case, Run, cases_of, row_batches
from training.pipeline import Arrays
from training.precision.options import Precision

FORMAT = "onnx"
INT8_LIMITS = Limits()

_ROUNDS = 9
_ROUND_S = 0.01
"""A round of a quick model lasts about so long; of a slow one, one batch."""
_BUDGET_S = 10.0
"""No further round begins after so much time."""


@contextmanager
def runner(path: Path) -> Iterator[Run]:
    """An ONNX file under the server's backend, on one thread: its figures are CPU time."""
    backend = OnnxBackend(path, BackendOptions(providers=(CPU,), intra_op_threads=1))
    try:
        yield lambda inputs: backend.run(DEFAULT_SIGNATURE, inputs, ())
    finally:
        backend.close()


def check(
    run: Run, source: Run, signature: Signature, samples: Arrays, precision: Precision, *, padding: bool
) -> tuple[ParityRecord, ...]:
    """Hold a variant's answers to the float32 model's, on rows alone and together, in every length that is free.

    fp16 is held to the float16 tolerance of `services.parity`, element by element; int8 to `INT8_LIMITS`. Raises ParityError.
    """
    cases = list(cases_of(source, signature, samples, padding=padding, refusals=(CornetError,)))
    tolerances = {name: tolerance_for(answers, "float16") for name, answers in cases[0].answers.items()}
    records: dict[str, list[ParityRecord]] = {}
    for case in cases:
        for record in _judge(run, case, precision, tolerances):
            records.setdefault(record.output, []).append(record)
    return tuple(merge(group) for group in records.values())


def answers(run: Run, inputs: Arrays, batch_rows: int) -> dict[str, np.ndarray]:
    """The outputs for all rows, computed in batches of the size that the server merges."""
    count = len(next(iter(inputs.values())))
    parts = [
        run({name: rows[start : start + batch_rows] for name, rows in inputs.items()})
        for start in range(0, count, batch_rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_finite(got: Arrays, want: Arrays) -> None:
    """Raises ParityError where an answer to a held-out row is not finite and float32's is."""
    for name, values in want.items():
        lost = int((np.isfinite(values) & ~np.isfinite(got[name])).sum())
        if lost:
            raise ParityError(f"Expected finite answers of {name} to all held-out rows. Received: {lost} that are not.")


def check_metric(name: str, got: float, want: float, *, smaller_is_better: bool, most_loss: float) -> None:
    """Raises ParityError where a metric is worse than float32's by more than a share of it."""
    loss = (got - want) if smaller_is_better else (want - got)
    if not loss <= most_loss * abs(want):
        raise ParityError(
            f"Expected {name} on the held-out rows to be at most {most_loss:.2%} worse than float32's {want:.5g}. "
            f"Received: {got:.5g}."
        )


def latencies(source: Run, variant: Run, samples: Arrays, batches: tuple[int, ...]) -> tuple[LatencyRecord, ...]:
    """Median CPU time per batch, both models in turns, so that what else runs on the machine meets both alike."""
    records = []
    for rows in dict.fromkeys(batches):
        inputs = {name: np.resize(values, (rows, *values.shape[1:])) for name, values in samples.items()}
        records.append(LatencyRecord(rows, *_interleaved(source, variant, inputs)))
    return tuple(records)


def _interleaved(source: Run, variant: Run, inputs: Arrays) -> tuple[float, float]:
    runs = (source, variant)
    began = time.perf_counter()
    warm = max(_cpu_us(run, inputs, 1) for run in runs)
    times: tuple[list[float], list[float]] = ([], [])
    repeats = max(1, int(_ROUND_S * 1e6 / max(warm, 1.0)))
    for _ in range(_ROUNDS):
        for run, spent in zip(runs, times, strict=True):
            spent.append(_cpu_us(run, inputs, repeats))
        if time.perf_counter() - began > _BUDGET_S:
            break
    first, second = (round(median(spent), 1) for spent in times)
    return first, second


def _cpu_us(run: Run, inputs: Arrays, repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        run(inputs)
    return (time.process_time() - began) / repeats * 1e6


def _judge(run: Run, case: Case, precision: Precision, tolerances: Mapping[str, Tolerance]) -> Iterator[ParityRecord]:
    batches = row_batches(len(next(iter(case.inputs.values()))))
    order = np.concatenate(batches)
    try:
        parts = [run({name: rows[batch] for name, rows in case.inputs.items()}) for batch in batches]
    except CornetError as error:
        raise ParityError(f"{precision} cannot compute what float32 computes ({case.title}): {error}") from error
    for output, want in case.answers.items():
        got = np.concatenate([part[output] for part in parts])
        if precision is Precision.INT8:
            yield compare_statistics(FORMAT, output, got, want[order], INT8_LIMITS, rows=order, case=case.title)
        else:
            yield compare(FORMAT, output, got, want[order], tolerances[output], rows=order, case=case.title)
