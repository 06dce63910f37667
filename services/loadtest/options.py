"""Texts of the command line to plain values. Each raises InvalidArgument naming the option."""

from services.errors import InvalidArgument
from services.loadtest.plan import DEFAULT_ADDRESSES, Kind, Load, is_loopback, split_address
from services.loadtest.protocols import PROTOCOLS

_MAX_STEPS = 50


def parse_loads(concurrency: str | None, rate: str | None, arrivals: str) -> list[Load]:
    """The steps of `--concurrency 1,8,64` or `--rate 100,200`; one caller where neither is given."""
    if concurrency is not None and rate is not None:
        raise InvalidArgument("Expected one of --concurrency (closed loop) and --rate (open loop). Received: both.")
    if arrivals not in {"constant", "poisson"}:
        raise InvalidArgument(f"Expected --arrivals constant or poisson. Received: {arrivals}.")
    if rate is not None:
        kind: Kind = "constant" if arrivals == "constant" else "poisson"
        return [Load(kind, value) for value in _numbers(rate, "--rate")]
    values = _numbers(concurrency or "1", "--concurrency")
    for value in values:
        if value != int(value):
            raise InvalidArgument(f"Expected whole numbers in --concurrency. Received: {value:g}.")
    return [Load("closed", value) for value in values]


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """`name=2,16` to the whole shape of an input; `name=` to a scalar's."""
    shapes = {}
    for text in texts:
        name, equals, sizes = text.partition("=")
        parts = [part.strip() for part in sizes.split(",")] if sizes else []
        if not name or not equals or not all(part.isascii() and part.isdigit() for part in parts):
            raise InvalidArgument(f"Expected --shape as name=length,length. Received: {text!r:.100}.")
        shapes[name] = tuple(map(int, parts))
    return shapes


def default_address(protocol: str) -> str:
    dialect = PROTOCOLS.get(protocol)
    if dialect is None:
        raise InvalidArgument(f"Expected --protocol out of {', '.join(PROTOCOLS)}. Received: {protocol}.")
    return DEFAULT_ADDRESSES[dialect.is_grpc]


def default_metrics_url(protocol: str, address: str) -> str:
    """Where an HTTP target has its metrics; for a gRPC target on this machine the default HTTP port, if that is right."""
    host, port = split_address(address)
    if not PROTOCOLS[protocol].is_grpc:
        return f"http://{_bracketed(host)}:{port}/metrics"
    default = split_address(DEFAULT_ADDRESSES[True])
    return f"http://{DEFAULT_ADDRESSES[False]}/metrics" if is_loopback(host) and port == default[1] else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _numbers(text: str, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or len(values) > _MAX_STEPS or not all(0 < value <= 1e6 for value in values):
        raise InvalidArgument(f"Expected {option} as up to {_MAX_STEPS} positive numbers. Received: {text!r:.100}.")
    return values
