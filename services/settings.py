"""The settings of a server: the only reader of the environment (`CORNET_*`).

Command-line options win over the environment, the environment over the defaults below. The values are read once, in
`services.app`; inner rooms are handed plain option values.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from services.errors import InvalidArgument
from services.options import Bounds, Option, options_of

ENVIRONMENT_PREFIX = "CORNET_"

_INT32_MAX = 2**31 - 1

Port = Annotated[int, Bounds(0, 65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a serving process is configured by; every field is `CORNET_<NAME>` in the environment.

    A value may be a text, as the environment has it, or what JSON has for it. Raises InvalidArgument naming each field
    that does not fit.
    """

    repository: Path = Path("exported_models")
    """Folder of `<name>/<version>/` directories. Every model in it is served, unless `models_file` names the models."""
    models_file: Path | None = None
    """A models.toml that lists the models with version policies, labels and batching."""
    host: str = "127.0.0.1"
    """Address both ports listen on. A container sets 0.0.0.0."""
    grpc_port: Port = 8500
    """Port of gRPC; 0 picks a free one."""
    http_port: Port = 8501
    """Port of HTTP; 0 picks a free one. Under `bentoml serve` BentoML's own port option decides."""
    workers: Annotated[int, Bounds(1)] = 1
    """Processes that share both ports, under a supervisor. Each has its share of the CPUs' threads."""
    typed_endpoints: bool = True
    """Serve the BentoML endpoints and the docs page beside the two protocol dialects."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime execution providers in order of preference, separated by commas, for example
    `CUDAExecutionProvider,CPUExecutionProvider`. Empty: CUDA where the installed runtime has it, else the CPU."""
    allow_cpu_fallback: bool = False
    """Serve from the CPU when a provider that was asked for is absent, rather than fail to load."""
    intra_op_threads: Annotated[int, Bounds(0)] = 0
    """Threads ONNX Runtime may use inside one run; 0 sizes them to the machine."""
    gpu_index: Annotated[int, Bounds(0)] = 0
    """Which GPU runs the models, of those that CUDA shows to the process."""
    gpu_memory_bytes: Annotated[int, Bounds(0)] = 0
    """Most memory of the GPU that one model may take beside its weights; 0 sets no bound."""
    gpu_tf32: bool = False
    """Let float32 models compute in TensorFloat-32 on the GPU: several times as fast, with relative errors of about 1e-3,
    which the proof of an export does not cover."""
    gpu_conv_search: Literal["heuristic", "exhaustive", "default"] = "heuristic"
    """How cuDNN chooses convolutions; `exhaustive` times all of them for every new shape, which makes loading long."""
    poll_interval_s: Annotated[float, Bounds(0)] = 1.0
    """Seconds between looks at the repository for new and removed versions; 0 looks once, at the start."""
    load_retries: Annotated[int, Bounds(0)] = 5
    """How often a version that failed to load is tried again, with growing pauses."""
    drain_timeout_s: Annotated[float, Bounds(0)] = 20.0
    """Seconds that running requests may take to finish after SIGTERM."""
    drain_delay_s: Annotated[float, Bounds(0)] = 0.0
    """Seconds between turning readiness off and closing the ports, for load balancers to notice."""
    max_body_bytes: Annotated[int, Bounds(1)] = 64 * 1024 * 1024
    """Largest HTTP request body, after decompression."""
    grpc_max_message_bytes: Annotated[int, Bounds(1, _INT32_MAX)] = _INT32_MAX
    """Largest gRPC message, either way."""
    grpc_transport: Literal["native", "grpcio"] = "native"
    """What carries gRPC: HTTP/2 on the server's own event loop, or grpcio, the reference."""
    grpc_socket: Path | None = None
    """A unix socket that gRPC listens on as well; only this user may connect to it. One worker alone can have it."""
    grpc_compression: Literal["gzip", "deflate"] | None = None
    """Compression of gRPC answers to clients that accept it. Compressed requests are taken whatever it is."""
    grpc_tls_certificate: Path | None = None
    """PEM file of gRPC's certificate chain. With it and its key, gRPC is served over TLS."""
    grpc_tls_key: Path | None = None
    """PEM file of the certificate's key."""
    grpc_tls_client_ca: Path | None = None
    """PEM file of the authority whose certificates gRPC's clients must have (mutual TLS)."""
    grpc_max_concurrent_streams: Annotated[int, Bounds(1, _INT32_MAX)] = 1024
    """Calls that may be open at once on one gRPC connection."""
    grpc_keepalive_s: Annotated[float, Bounds(0)] = 60.0
    """A gRPC connection silent for this many seconds is pinged, and closed when it stays silent; 0 never pings."""
    grpc_max_connection_idle_s: Annotated[float, Bounds(0)] = 0.0
    """Seconds after which a gRPC connection without calls is closed; 0 keeps it."""
    grpc_max_connection_age_s: Annotated[float, Bounds(0)] = 0.0
    """Seconds after which a gRPC connection is drained, so that clients spread over new servers; 0 keeps it."""
    grpc_max_connection_age_grace_s: Annotated[float, Bounds(0)] = 0.0
    """Seconds that the calls of a drained connection then have; 0 lets them end by themselves."""
    keep_alive_s: Annotated[int, Bounds(1)] = 75
    """Seconds an idle HTTP connection stays open, and that a request may pause while it is sent. Keep it above the idle time
    of the load balancer in front."""
    server_name: str = "cornet"
    """Name in the Open Inference Protocol's server metadata; some Triton clients expect `triton`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["console", "json"] = "console"
    """Lines for people, or one JSON object a line."""

    trace_endpoint: str = ""
    """URL that traces are sent to by OTLP over HTTP, for example `http://localhost:4318/v1/traces`. Empty: as the standard
    `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` says, and no traces without them."""

    request_log: Path | None = None
    """Folder that requests are logged to, one record each. Empty: they are not. Processes may share it."""
    request_log_format: Literal["jsonl", "parquet"] = "jsonl"
    """JSON lines, which can be read while they are written, or Parquet (needs pyarrow), once a file is finished."""
    request_log_rate: Annotated[float, Bounds(0, 1, open_low=True)] = 1.0
    """Share of the requests that is logged, picked at random."""
    request_log_errors: bool = False
    """Log every request that failed, whatever the rate."""
    request_log_payloads: bool = False
    """Log inputs and outputs too. They may be personal data."""
    request_log_payload_bytes: Annotated[int, Bounds(1, 16 * 1024 * 1024)] = 64 * 1024
    """Bytes of tensors in one record; a tensor that does not fit is named without its values."""
    request_log_file_bytes: Annotated[int, Bounds(1)] = 64 * 1024 * 1024
    """Size at which a file of the request log is finished and the next one begun."""
    request_log_file_s: Annotated[float, Bounds(0, open_low=True)] = 600.0
    """Seconds after which a file of the request log is finished."""
    request_log_keep_bytes: Annotated[int, Bounds(0)] = 1024 * 1024 * 1024
    """Size of all finished files of the request log together, over which the oldest are deleted."""

    def __post_init__(self) -> None:
        problems = []
        for option in setting_options().values():
            value = getattr(self, option.name)
            try:
                object.__setattr__(self, option.name, option.typed(value))
            except ValueError:
                problems.append(option.misfit(value))
        if problems:
            raise InvalidArgument(f"Settings do not fit: {' '.join(problems)}")

    def plain(self) -> dict[str, Any]:
        """The values as JSON has them, for `Settings(**values)` in another process."""
        values = {name: getattr(self, name) for name in setting_options()}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def traces_configured(settings: Settings) -> bool:
    """Whether an exporter of traces is asked for, by our setting or by OpenTelemetry's own variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(settings.trace_endpoint) or any(os.environ.get(name) for name in standard)


@cache
def setting_options() -> Mapping[str, Option]:
    """What there is to set, by name."""
    return {option.name: option for option in options_of(Settings)}


def read_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with the options that are not None on top; an empty variable is as good as none.

    Raises InvalidArgument naming each field that does not fit.
    """
    variables = {name: os.environ.get(f"{ENVIRONMENT_PREFIX}{name.upper()}") for name in setting_options()}
    given = {name: value for name, value in overrides.items() if value is not None}
    return Settings(**{name: value for name, value in variables.items() if value} | given)
