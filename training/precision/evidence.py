"""What variants are made and judged with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.manifest import sha256
from services.tensors import Signature
from training.pipeline import Arrays

Evaluate = Callable[[Arrays], Mapping[str, float]]
"""Metrics of the outputs for all held-out rows."""


@dataclass(frozen=True)
class Evidence:
    """What a version itself does not hold.

    `calibration`: training rows by input name, `calibration_source` where they are from. `held_out`: the rows that `evaluate`
    gives metrics of; `metric` is the one that decides. Without it only the distance from float32 is judged.
    """

    calibration: Arrays | None = None
    calibration_source: str = ""
    held_out: Arrays | None = None
    evaluate: Evaluate | None = None
    metric: str = ""
    smaller_is_better: bool = False


def calibrated_on(path: Path | None, signature: Signature) -> Evidence:
    """Evidence of nothing but the rows of an NPZ to calibrate on. Raises DataError where they do not fit the signature."""
    from training.foreign import read_rows

    if path is None:
        return Evidence()
    return Evidence(
        calibration=read_rows(path, signature), calibration_source=f"rows of {path.name}, sha256:{sha256(path)}"
    )
