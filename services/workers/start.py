"""From the command line to the supervisor: the process starts over as one that holds nothing of what it took to get here."""

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from services.engine.model_config import ModelConfig, load_models_file, to_tables
from services.settings import Settings
from services.workers.interpreter import command
from services.workers.plan import Plan

_MARGIN_S = 5.0
"""What a worker may need beyond the times of its drain, to unload and to end."""


def supervise(settings: Settings, configs: Sequence[ModelConfig] | None = None, *, http: bool = True) -> NoReturn:
    """Become the supervisor of `settings.workers` processes, under the same process id.

    The command line's modules would cost it three times the memory. `configs` names the models where the settings' own
    sources are not to be used. Raises InvalidArgument for a models file that does not fit: one error, not one per worker.
    """
    if configs is None and settings.models_file is not None:
        configs = load_models_file(settings.models_file)
    plan = Plan(
        workers=settings.workers,
        host=settings.host,
        grpc_port=settings.grpc_port,
        http_port=settings.http_port if http else None,
        stop_within_s=settings.drain_delay_s + max(settings.drain_timeout_s, 1.0) + _MARGIN_S,
        log_level=settings.log_level,
        log_format=settings.log_format,
        settings=settings.plain(),
        models=None if configs is None else to_tables(configs),
    )
    file = tempfile.TemporaryFile()  # noqa: SIM115 # the process that this one becomes closes it
    file.write(plan.encode())
    file.seek(0)
    os.set_inheritable(file.fileno(), True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command("services.workers.process", "cornet-supervisor", file.fileno()))  # noqa: S606 # ourselves
