"""`cornet-model-server`: `tensorflow_model_server`'s flags, so that a container's command line moves over unchanged.

Flags that tune TensorFlow's own runtime have no meaning here: they are accepted, and named once in the log as having no
effect. Flags that would make the server less safe when ignored (TLS, ALTS) are refused.

Source of names and defaults: tensorflow_serving/model_servers/{main.cc,server.h}.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.app import run
from services.engine.model_config import BatchingConfig, ModelConfig
from services.engine.version_policy import All, Latest, Specific, VersionPolicy
from services.errors import CornetError, InvalidArgument, Unimplemented
from services.protocols.messages import BatchingParameters, ModelServerConfig, parse_text
from services.server_info import own_version
from services.settings import Settings, read_settings
from services.telemetry.log import configure_logging, get_logger

_NO_EFFECT = (
    *("rest_api_num_threads", "rest_api_timeout_in_ms", "grpc_max_threads", "grpc_channel_arguments"),
    *("num_load_threads", "num_unload_threads", "load_retry_interval_micros", "flush_filesystem_caches"),
    *("tensorflow_session_parallelism", "tensorflow_inter_op_parallelism", "tensorflow_session_config_file"),
    *("platform_config_file", "per_process_gpu_memory_fraction", "saved_model_tags", "mixed_precision"),
    *("enable_model_warmup", "num_request_iterations_for_warmup", "remove_unused_fields_from_bundle_metagraph"),
    *("prefer_tflite_model", "num_tflite_pools", "num_tflite_interpreters_per_pool", "skip_initialize_tpu"),
    *("enable_signature_method_name_check", "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled"),
    *("enable_profiler", "thread_pool_factory_config_file", "enable_grpc_healthcheck_service"),
    *("monitoring_config_file", "allow_version_labels_for_unavailable_models", "enable_batching"),
)
_REFUSED = (
    *("ssl_config_file", "use_alts_credentials", "rest_api_enable_cors_support"),
    *("enable_per_model_batching_parameters", "model_config_file_poll_wait_seconds"),
    "enable_serialization_as_tensor_content",
)
_DEFAULT_QUEUED_BATCHES = 10
_DEFAULT_BATCH_ROWS = 1000


@dataclass(frozen=True)
class CommandLine:
    """What the flags come to: settings, the models to serve, and the flags that were given but change nothing."""

    settings: Settings
    configs: list[ModelConfig]
    http: bool
    without_effect: tuple[str, ...]


def parse_flags(arguments: Sequence[str]) -> CommandLine:
    """Read `tensorflow_model_server` flags. Raises InvalidArgument, or Unimplemented for a flag that must not be ignored."""
    flags = vars(_parser().parse_args(arguments))
    for name in _REFUSED:
        if _is_set(flags[name]):
            raise Unimplemented(f"--{name} is not supported; the server does not start without what it asks for.")
    batching = _batching(flags["batching_parameters_file"])
    if flags["model_config_file"]:
        configs = _models(Path(flags["model_config_file"]), batching)
    elif flags["model_base_path"]:
        configs = [ModelConfig(flags["model_name"], Path(flags["model_base_path"]), batching=batching)]
    else:
        raise InvalidArgument("Expected --model_base_path or --model_config_file. Received: neither.")
    settings = read_settings(
        host="0.0.0.0",  # noqa: S104 - where tensorflow_model_server listens
        grpc_port=flags["port"],
        grpc_socket=flags["grpc_socket_path"] or None,
        http_port=flags["rest_api_port"],
        poll_interval_s=max(flags["file_system_poll_wait_seconds"], 0),
        load_retries=flags["max_num_load_retries"],
        intra_op_threads=flags["tensorflow_intra_op_parallelism"],
    )
    without_effect = tuple(name for name in _NO_EFFECT if flags[name] is not None)
    return CommandLine(settings, configs, flags["rest_api_port"] != 0, without_effect)


def main() -> None:
    """Serve until a signal; a CornetError becomes one line on standard error and exit status 1."""
    try:
        line = parse_flags(sys.argv[1:])
        configure_logging(line.settings.log_level, line.settings.log_format)
        if line.without_effect:
            get_logger(__name__).warning("flags without effect", flags=", ".join(line.without_effect))
        if line.settings.workers > 1:
            from services.workers.start import supervise

            supervise(line.settings, line.configs, http=line.http)
        run(line.settings, line.configs, http=line.http)
    except CornetError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cornet-model-server",
        description="Serve models with tensorflow_model_server's flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cornet {own_version()}")
    integer: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--port", default=8500, help="port of gRPC", **integer)
    parser.add_argument("--grpc_socket_path", metavar="PATH", help="a unix socket that gRPC listens on as well")
    parser.add_argument("--rest_api_port", default=0, help="port of HTTP; 0 for none", **integer)
    parser.add_argument("--model_name", default="default", metavar="NAME", help="name of the one model served")
    parser.add_argument("--model_base_path", metavar="DIR", help="the folder that holds its <version>/ directories")
    parser.add_argument(
        "--model_config_file", metavar="FILE", help="a ModelServerConfig in text format: several models"
    )
    parser.add_argument("--batching_parameters_file", metavar="FILE", help="a BatchingParameters in text format")
    parser.add_argument(
        "--file_system_poll_wait_seconds", default=1, help="seconds between looks for versions", **integer
    )
    parser.add_argument("--max_num_load_retries", default=5, help="how often a failed load is tried again", **integer)
    parser.add_argument(
        "--tensorflow_intra_op_parallelism", default=0, help="threads in one run; 0: all cores", **integer
    )
    for name in _NO_EFFECT:
        parser.add_argument(f"--{name}", nargs="?", const="true", help="accepted, without effect")
    for name in _REFUSED:
        parser.add_argument(f"--{name}", nargs="?", const="true", help="refused unless it is off")
    return parser


def _is_set(value: str | None) -> bool:
    return value is not None and value.lower() not in ("", "0", "false")


def _models(path: Path, batching: BatchingConfig) -> list[ModelConfig]:
    message = parse_text(ModelServerConfig, _read(path), str(path))
    models = message.model_config_list.config
    names = [model.name for model in models]
    for model in models:
        if not model.name or not model.base_path:
            raise InvalidArgument(f"{path}: expected every config to have name and base_path. Received: {model}.")
        if names.count(model.name) > 1:
            raise InvalidArgument(f"{path}: expected distinct model names. Received: {model.name} more than once.")
    return [
        ModelConfig(m.name, Path(m.base_path), _policy(m.model_version_policy), dict(m.version_labels), batching)
        for m in models
    ]


def _policy(message: Any) -> VersionPolicy:
    choice = message.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(sorted(set(message.specific.versions))))
    return Latest(message.latest.num_versions or 1)


def _batching(path: str | None) -> BatchingConfig:
    """The batching file as our options; its sizes count rows, as ours do."""
    if not path:
        return BatchingConfig()
    message = parse_text(BatchingParameters, _read(Path(path)), path)
    rows = message.max_batch_size.value if message.HasField("max_batch_size") else _DEFAULT_BATCH_ROWS
    queued = message.max_enqueued_batches.value if message.HasField("max_enqueued_batches") else _DEFAULT_QUEUED_BATCHES
    allowed = tuple(message.allowed_batch_sizes)
    if min(rows, queued) < 1 or message.batch_timeout_micros.value < 0 or min(allowed, default=1) < 1:
        raise InvalidArgument(f"{path}: expected positive sizes. Received: {message}.")
    if allowed and (sorted(set(allowed)) != list(allowed) or allowed[-1] != rows):
        raise InvalidArgument(
            f"{path}: expected allowed_batch_sizes to ascend to max_batch_size, {rows}. Received: {list(allowed)}."
        )
    return BatchingConfig(
        max_batch_rows=rows,
        max_queue_rows=rows * queued,
        max_queue_delay_us=message.batch_timeout_micros.value,
        allowed_batch_rows=allowed,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"Expected a text file at {path}. Received: {error}.") from error


if __name__ == "__main__":
    main()
