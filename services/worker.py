"""One worker of `cornet serve --workers N`: the server of one process, on ports that it shares. Its supervisor starts it.

It joins the ports once its models are loaded: whoever reaches a worker reaches one that can answer. SIGTERM has it drain;
further ones change nothing, for it is the supervisor who decides when there has been time enough.
"""

import asyncio
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

import uvloop

from services.app import HttpFront, ProcessShare, Server, prepare
from services.cpus import available_cpus
from services.engine.model_config import from_tables
from services.errors import CornetError
from services.settings import Settings
from services.telemetry.log import configure_logging, get_logger
from services.workers import frames, lifeline
from services.workers.link import Link, inherit

_log = get_logger("cornet")

_FAILED = 3
"""Exit status of a worker that has told its supervisor why it cannot start."""


@dataclass(frozen=True, slots=True)
class _Boot:
    """What the supervisor says first: see `services.workers.supervisor`."""

    worker: int
    workers: int
    started: float
    stop_within_s: float
    settings: dict[str, Any]
    models: dict[str, Any] | None
    http: bool


def main(channel: int, pipe: int) -> None:
    """Serve until SIGTERM; `channel` and `pipe` are the descriptors of the supervisor's socket and lifeline."""
    with socket.socket(fileno=channel) as stream:
        try:
            frame = frames.read_blocking(stream)
        except EOFError:
            return
        boot = _Boot(**{name: value for name, value in frame.head.items() if name != "kind"})
        lifeline.watch(pipe, boot.stop_within_s)
        settings = Settings(**boot.settings)
        configure_logging(settings.log_level, settings.log_format, worker=boot.worker)
        try:
            uvloop.run(_serve(stream, boot, settings, frame.body))
        except CornetError as error:
            _tell(stream, error)
            sys.exit(_FAILED)


async def _serve(channel: socket.socket, boot: _Boot, settings: Settings, predecessor: bytes) -> None:
    stop = _stop_on_signals()
    configs = None if boot.models is None else from_tables(boot.models)
    share = ProcessShare(max(1, available_cpus() // boot.workers))
    server = Server(settings, configs, share=share)
    inherit(server.metrics, predecessor)
    link = await Link.open(channel.dup(), boot.worker, server.metrics, boot.started)
    server.metrics.share(link)
    front = preparing = None
    try:
        grpc_port = await _unless(stop, server.start())
        if grpc_port is not None:
            typed = server.typed_app() if boot.http and settings.typed_endpoints else None
            front = await HttpFront.start(server, typed) if boot.http else None
            grpc, http = f"{settings.host}:{grpc_port}", front.url if front else None
            link.say("ready", grpc=grpc, http=http, models=", ".join(server.engine.models()) or "none")
            _log.info("worker ready", grpc=grpc, http=http)
            preparing = asyncio.create_task(prepare(typed)) if typed is not None else None
            await stop.wait()
            if preparing is not None:
                preparing.cancel()
            await server.drain()
    finally:
        await server.stop(front)
        await link.close()


async def _unless(stop: asyncio.Event, start: Any) -> int | None:
    """The result of `start`; None where `stop` comes first, and the start is given up."""
    starting, stopping = asyncio.ensure_future(start), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        return int(starting.result()) if starting.done() else None
    finally:
        starting.cancel()
        stopping.cancel()


def _stop_on_signals() -> asyncio.Event:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _tell(channel: socket.socket, error: CornetError) -> None:
    try:
        channel.setblocking(True)  # its duplicate was the loop's
        channel.sendall(frames.encode("failed", reason=str(error)))
    except OSError:
        _log.error("the worker cannot start", reason=str(error))  # and nobody is left to be told
