"""What a supervisor is told: plain values, so that neither it nor the way to it needs what a server is made of."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from services.telemetry.log import Format, Level


@dataclass(frozen=True, slots=True)
class Plan:
    """`settings` and `models` are for the workers: the settings by name, and the models to serve as the tables of a
    models.toml (None: what the settings say). The rest is the supervisor's part of the settings.
    """

    workers: int
    host: str
    grpc_port: int
    http_port: int | None
    """None for no HTTP."""
    stop_within_s: float
    """How long a worker may take to drain before it is killed."""
    log_level: Level
    log_format: Format
    settings: dict[str, Any]
    models: dict[str, Any] | None = None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(**json.loads(data))
