"""How requests are logged, as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["jsonl", "parquet"]


@dataclass(frozen=True, slots=True)
class RequestLogOptions:
    """`rate` is the share of requests that is logged, 0 < rate <= 1; with `errors` each one that failed is."""

    folder: Path
    """Where the files go; processes may share it. It is made where it is missing."""
    format: Format = "jsonl"
    rate: float = 1.0
    errors: bool = False
    payload_bytes: int | None = None
    """Bytes of tensors that a record may hold, None for no payloads. A tensor that does not fit is named without values."""
    file_bytes: int = 64 * 1024 * 1024
    """A file that has grown to this is finished, and the next one begun."""
    file_s: float = 600.0
    """Seconds after which a file is finished."""
    keep_bytes: int = 1024 * 1024 * 1024
    """The oldest finished files are deleted where all of them together are larger than this."""
