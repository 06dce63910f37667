"""What a run ends with: on the terminal, and as summary.json beside the output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.batch.job import StageSeconds

Status = Literal["complete", "error_rate_exceeded"]


@dataclass(frozen=True, slots=True)
class Summary:
    """`rows` and `errors` are the whole output's, earlier runs included; `records` is what the input holds.

    `computed` records took this run `seconds`, in which the model ran for `model_busy` of the time (0..1). `stages` are the
    shares of all busy time, summed over processes.
    """

    status: Status
    model: str
    version: int
    sha256: str
    input: str
    output: str
    engine: str
    records: int
    rows: int
    errors: int
    computed: int
    seconds: float
    rows_per_s: float
    model_busy: float
    stages: Mapping[str, float]

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.stages.items())
        before = self.rows + self.errors - self.computed
        lines = [
            f"{self.model}/{self.version}: {self.rows:,} rows, {self.errors:,} errors in {self.output}",
            f"this run: {self.computed:,} records in {self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s"
            + (f"; {before:,} were there before" if before > 0 else ""),
        ]
        return "\n".join([*lines, f"busy time: {shares}"] if self.computed else lines)


def shares(seconds: StageSeconds) -> dict[str, float]:
    """Each stage's part of all busy time; zeros where nothing was done."""
    busy: dict[str, Any] = {name: getattr(seconds, name) for name in ("read", "decode", "compute", "write")}
    total = sum(busy.values())
    return {name: round(value / total, 4) if total else 0.0 for name, value in busy.items()}
