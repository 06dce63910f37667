"""Does an exported format answer as Keras does? One rule, for the exporter and for `cornet models verify`.

Floats pass when `abs(got - want) <= atol + rtol * abs(want)`, numpy.allclose's rule. NaN equals NaN and an infinity equals
itself: what Keras answers is right by definition. `atol` grows with the largest answer of that output, so that prices
in the thousands and probabilities are judged alike; `rtol` is some thousand roundings of the coarsest float type the graph
computes in, which leaves room for another order of summation and none for a wrong axis or a lost layer.

Booleans and integers must agree, but for a documented few: they come from comparing floats (a score with its threshold, two
nearly equal classes), so that a row within rounding of the border may fall on either side. See `Tolerance.disagreements`.
Several integers in a row count as one answer, right or wrong: where they are drawn one after the other, as the pixels of a
picture are, the first that falls on the other side changes all that follow.

An int8 model cannot be held to that: single answers move by what a step of eight bits is. It is judged by statistics over
all rows, `compare_statistics`, and by its metric on held-out rows, which is the exporter's work.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.errors import DataLoss, ParityError
from services.manifest import SAMPLES_FILE, ParityRecord
from services.tensors import dtype_of


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may be from Keras's.

    `atol` and `rtol` are for floats. `disagreements` is the share of elements of a boolean output, or of rows of an integer
    one, that may differ; it starts to count at `SMALLEST_FOR_DISAGREEMENT` of them, so that a handful must agree entirely.
    """

    atol: float = 0.0
    rtol: float = 0.0
    disagreements: float = 0.0

    def allowed_disagreements(self, decisions: int) -> int:
        if decisions < SMALLEST_FOR_DISAGREEMENT or not self.disagreements:
            return 0
        return max(1, int(decisions * self.disagreements))


SMALLEST_FOR_DISAGREEMENT = 20
DISAGREEMENTS = 0.01
RTOL = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-4}
"""By the coarsest type of the graph. A float64 output may come from float32 layers, so it is held to no more than those."""
ATOL_SHARE = 0.1
"""`atol` as a share of `rtol` times the largest answer: 1e-5 of it for float32."""
SMALLEST_ATOL = 1e-9
"""Keras's exact zeros (a ReLU that never fires) may come out as a rounding residue."""


def tolerance_for(want: np.ndarray, compute: str = "float32") -> Tolerance:
    """The tolerance for one output, from Keras's answers to it and the coarsest float type its graph computes in."""
    if not np.issubdtype(want.dtype, np.floating):
        return Tolerance(disagreements=DISAGREEMENTS)
    rtol = max(RTOL.get(compute, RTOL["float16"]), RTOL[dtype_of(want).name])
    finite = want[np.isfinite(want)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    return Tolerance(atol=max(ATOL_SHARE * rtol * largest, SMALLEST_ATOL), rtol=rtol)


def tolerance_of(record: ParityRecord) -> Tolerance:
    """The tolerance an export was held to, to hold it to the same again."""
    return Tolerance(record.atol, record.rtol, 0.0 if record.rtol else DISAGREEMENTS)


def compare(
    format_: str,
    output: str,
    got: np.ndarray,
    want: np.ndarray,
    tolerance: Tolerance,
    *,
    rows: np.ndarray | None = None,
    case: str = "",
) -> ParityRecord:
    """How far `got` is from Keras's `want`, both with one row per held-out row.

    `rows` int `[len(want)]` are the numbers of those rows, where they are not 0, 1, 2, ...; `case` says under which
    conditions (`half the length`), for the message. Raises ParityError with format, output, distance, tolerance and
    worst row.
    """
    rows = np.arange(len(want)) if rows is None else rows
    where = f"{format_} answers {output} differently from Keras" + (f" ({case})" if case else "")
    if got.dtype != want.dtype or got.shape != want.shape:
        raise ParityError(
            f"{where}. Expected {want.dtype.name} of shape {list(want.shape)}. "
            f"Received: {got.dtype.name} of shape {list(got.shape)}."
        )
    if np.issubdtype(want.dtype, np.floating):
        return _compare_floats(format_, output, got, want, tolerance, rows, where)
    return _compare_exact(format_, output, got, want, tolerance, rows, where)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an int8 model's answers may be apart from the float32 model's over all rows.

    `nrmse`: root mean square of the differences, as a share of the answers' own spread about their column's mean. 0.1 means
    that 1 % of the variance is noise. `agreement`: share of rows with the same most probable class, where the output is
    one of probabilities, and of equal elements for booleans and integers.
    """

    nrmse: float = 0.1
    agreement: float = 0.95


def compare_statistics(
    format_: str,
    output: str,
    got: np.ndarray,
    want: np.ndarray,
    limits: Limits,
    *,
    rows: np.ndarray | None = None,
    case: str = "",
) -> ParityRecord:
    """How far `got` is from `want` over all rows together. `rows` and `case` are as for `compare`.

    Raises ParityError where the answers are beyond the limits.

    `atol` and `rtol` of the record are 0: no single answer is held to anything but being finite where `want` is.
    """
    where = f"{format_} answers {output} differently from float32" + (f" ({case})" if case else "")
    if got.dtype != want.dtype or got.shape != want.shape:
        raise ParityError(
            f"{where}. Expected {want.dtype.name} of shape {list(want.shape)}. "
            f"Received: {got.dtype.name} of shape {list(got.shape)}."
        )
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want64)
    if not np.array_equal(finite, np.isfinite(got64)):
        raise ParityError(f"{where}. Expected finite answers in the same places.")
    distance = np.abs(np.where(finite, got64 - want64, 0.0))
    floats = np.issubdtype(want.dtype, np.floating)
    nrmse = _nrmse(distance, np.where(finite, want64, 0.0)) if floats else 0.0
    agreement = _agreement(got, want)
    if nrmse > limits.nrmse or agreement < limits.agreement:
        raise ParityError(
            f"{where}. Expected a normalised RMSE of at most {limits.nrmse:.3g} and at least {limits.agreement:.1%} equal "
            f"decisions. Received: {nrmse:.3g} and {agreement:.1%}."
        )
    largest = float(distance.max()) if distance.size else 0.0
    count = len(want) if rows is None else len(np.unique(rows))
    return ParityRecord(
        format_, output, count, largest, 0.0, 0.0, 0.0, agreement, nrmse, limits.nrmse, limits.agreement
    )


def compare_again(
    record: ParityRecord | None, format_: str, output: str, got: np.ndarray, want: np.ndarray
) -> ParityRecord:
    """Hold an output to what it was held to when it was exported; without a record, to what a float32 export is."""
    if record is not None and record.nrmse_limit:
        return compare_statistics(format_, output, got, want, Limits(record.nrmse_limit, record.agreement_limit))
    tolerance = tolerance_for(want) if record is None else tolerance_of(record)
    return compare(format_, output, got, want, tolerance)


def merge(records: Sequence[ParityRecord]) -> ParityRecord:
    """The worst of several comparisons of one output of one format."""
    return ParityRecord(
        format=records[0].format,
        output=records[0].output,
        samples=max(record.samples for record in records),
        max_abs=max(record.max_abs for record in records),
        max_rel=max(record.max_rel for record in records),
        atol=max(record.atol for record in records),
        rtol=max(record.rtol for record in records),
        agreement=min(record.agreement for record in records),
        nrmse=max(record.nrmse for record in records),
        nrmse_limit=max(record.nrmse_limit for record in records),
        agreement_limit=max(record.agreement_limit for record in records),
        signature=records[0].signature,
    )


def _nrmse(distance: np.ndarray, want: np.ndarray) -> float:
    """Root mean square distance over the spread of `want` about the mean of each column; over its size where that is 0."""
    rms = float(np.sqrt(np.mean(np.square(distance)))) if distance.size else 0.0
    spread = float(np.sqrt(np.mean(np.square(want - want.mean(axis=0))))) if want.size else 0.0
    scale = spread or float(np.abs(want).max(initial=0.0)) or 1.0
    return rms / scale


def _agreement(got: np.ndarray, want: np.ndarray) -> float:
    """Share of equal decisions: of rows whose most probable class is the same, or of equal booleans and integers."""
    if not np.issubdtype(want.dtype, np.floating):
        return float(np.mean(got == want)) if want.size else 1.0
    if want.ndim < 2 or want.shape[-1] < 2 or not _probabilities(want):
        return 1.0
    return float(np.mean(got.argmax(axis=-1) == want.argmax(axis=-1)))


def _probabilities(values: np.ndarray) -> bool:
    return bool(values.size and values.min() >= 0.0 and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))


def _compare_floats(
    format_: str, output: str, got: np.ndarray, want: np.ndarray, tolerance: Tolerance, rows: np.ndarray, where: str
) -> ParityRecord:
    # float64 holds the difference of two float16 or float32 exactly enough to judge it.
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    same = (got64 == want64) | (np.isnan(got64) & np.isnan(want64))
    with np.errstate(invalid="ignore"):  # inf - inf, where both agree
        distance = np.where(same, 0.0, np.abs(got64 - want64))
    distance = np.where(np.isnan(distance), np.inf, distance)
    size = np.where(np.isfinite(want64), np.abs(want64), 0.0)
    # Below atol an answer is noise to the rule above, and its relative error says nothing.
    relative = np.divide(distance, size, out=np.zeros_like(distance), where=size > max(tolerance.atol, 0.0))
    max_abs, max_rel = (float(values.max()) if values.size else 0.0 for values in (distance, relative))
    excess = distance - (tolerance.atol + tolerance.rtol * size)
    if (excess > 0).any():
        row = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{where}. Expected at most {tolerance.atol:.3g} + {tolerance.rtol:.3g} * |answer| apart. "
            f"Received: max abs {max_abs:.3g}, max rel {max_rel:.3g}; worst in row {rows[row[0]]}: "
            f"{got64[row]:.9g} instead of {want64[row]:.9g}."
        )
    return ParityRecord(format_, output, len(np.unique(rows)), max_abs, max_rel, tolerance.atol, tolerance.rtol)


def _compare_exact(
    format_: str, output: str, got: np.ndarray, want: np.ndarray, tolerance: Tolerance, rows: np.ndarray, where: str
) -> ParityRecord:
    different = got != want
    decisions, of = different, "elements"
    if np.issubdtype(want.dtype, np.integer) and want.ndim > 1:
        decisions, of = different.reshape(len(want), -1).any(axis=1), "rows"
    count = int(decisions.sum())
    allowed = tolerance.allowed_disagreements(decisions.size)
    if count > allowed:
        row = np.unravel_index(int(different.argmax()), different.shape)
        raise ParityError(
            f"{where}. Expected at most {allowed} of {decisions.size} {of} to differ. Received: {count}; "
            f"first in row {rows[row[0]]}: {got[row]} instead of {want[row]}."
        )
    agreement = 1.0 - count / decisions.size if decisions.size else 1.0
    if want.dtype == np.bool_ or not np.issubdtype(want.dtype, np.integer):
        return ParityRecord(format_, output, len(np.unique(rows)), float(count > 0), 0.0, 0.0, 0.0, agreement)
    distance = np.abs(got.astype(np.float64) - want.astype(np.float64))
    return ParityRecord(
        format_, output, len(np.unique(rows)), float(distance.max()) if distance.size else 0.0, 0.0, 0.0, 0.0, agreement
    )


def write_samples(
    directory: Path, inputs: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], file: str = SAMPLES_FILE
) -> None:
    """Store held-out rows and Keras's answers to them in a version directory, as an NPZ without pickled objects."""
    path = directory / file
    path.parent.mkdir(exist_ok=True)
    arrays = {f"inputs/{name}": rows for name, rows in inputs.items()}
    arrays |= {f"outputs/{name}": rows for name, rows in answers.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_samples(directory: Path, file: str = SAMPLES_FILE) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inputs and answers that `write_samples` stored, by tensor name. Raises DataLoss where they cannot be read."""
    try:
        with (directory / file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataLoss(f"Expected {file} to hold arrays. Received: {error}.") from error
    inputs, answers = (
        {key.removeprefix(prefix): rows for key, rows in arrays.items() if key.startswith(prefix)}
        for prefix in ("inputs/", "outputs/")
    )
    return inputs, answers
