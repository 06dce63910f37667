"""What a load test is asked to do: plain values, checked."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from services.errors import InvalidArgument
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.requests import Model

MAX_SECONDS = 3600.0
DEFAULT_ADDRESSES = {True: "127.0.0.1:8500", False: "127.0.0.1:8501"}
"""By whether the protocol is gRPC."""

Kind = Literal["closed", "constant", "poisson"]


@dataclass(frozen=True, slots=True)
class Load:
    """One step's load. `value` is the number of callers of a closed loop, or the requests per second of an open one."""

    kind: Kind
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "concurrency" if self.kind == "closed" else "rate_per_s": self.value}

    def __str__(self) -> str:
        if self.kind != "closed":
            return f"{self.value:g}/s {self.kind}"
        return "1 caller" if self.value == 1 else f"{self.value:g} callers"


@dataclass(frozen=True, slots=True)
class Target:
    """The server, the model and the inputs. `metrics_url` '' is no scrape; `file` an NPZ of tensors, a JSON body, or
    a request log (.jsonl or .parquet), of which the first `distinct` requests for the model are sent in turn.
    """

    protocol: str
    address: str
    model: Model
    metrics_url: str = ""
    rows: int = 1
    distinct: int = 16
    seed: int = 0
    variable_axis: int = 16
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    file: Path | None = None
    allow_remote: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidArgument(f"Expected a protocol out of {', '.join(PROTOCOLS)}. Received: {self.protocol}.")
        hosts = [split_address(self.address)[0]]
        if self.metrics_url:
            hosts.append(urlsplit(self.metrics_url).hostname or "")
        for host in hosts:
            if not self.allow_remote and not is_loopback(host):
                raise InvalidArgument(
                    f"Expected an address of this machine (127.0.0.1, ::1, localhost), or --allow-remote. Received: {host}."
                )


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much. Each step runs `warmup_s` unmeasured and `seconds` measured, and sends at most `max_requests`.

    `connections` 0 is as many as the load needs over HTTP (at most `max_in_flight`), and 4 over gRPC.
    """

    seconds: float = 10.0
    warmup_s: float = 1.0
    timeout_s: float = 10.0
    connections: int = 0
    max_requests: int = 1_000_000
    max_in_flight: int = 1024

    def __post_init__(self) -> None:
        for name, most in (("seconds", MAX_SECONDS), ("timeout_s", MAX_SECONDS)):
            if not 0 < getattr(self, name) <= most:
                raise InvalidArgument(f"Expected {name} above 0 and up to {most:g}. Received: {getattr(self, name):g}.")
        if not 0 <= self.warmup_s <= MAX_SECONDS:
            raise InvalidArgument(f"Expected warmup_s from 0 to {MAX_SECONDS:g}. Received: {self.warmup_s:g}.")
        if self.max_requests < 1 or self.max_in_flight < 1:
            raise InvalidArgument("Expected max_requests and max_in_flight of at least 1.")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[::1]:port` or an http:// address. Raises InvalidArgument."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in {"", "http"}:
        raise InvalidArgument(f"Expected an address as host:port, without TLS. Received: {address!r:.100}.")
    return host, port


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
