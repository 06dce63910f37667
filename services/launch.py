"""Start a server as a child process, wait until it is ready, stop it: for demos, tests and load tests.

    with ServerProcess("exported_models") as server:
        print(server.grpc_address, server.http_url)

The block's end stops it by its own process id, whatever happened inside.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from services.errors import Unavailable

READY_EVENT = "ready"
"""The log event a server writes once both ports are open and the initial models are loaded."""

_LAST_LINES_S = 5.0
"""How long the end of the log may take to arrive after the process has gone; a child of its own could hold the pipe open."""


class ServerProcess:
    """A `cornet serve` child on free loopback ports, with `options` added; or any other `command` line of Python's that
    starts a server of ours, complete with its repository and ports.

    `start` returns once the server says it is ready and raises Unavailable, with the log's tail, when it exits first or
    takes longer than `timeout_s`. `stop` sends a signal and returns the exit status; a server that does not drain within
    the time is killed. `log` holds the events written so far, oldest first.
    """

    def __init__(
        self,
        repository: Path | str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        timeout_s: float = 60.0,
    ) -> None:
        self.repository = Path(repository)
        self.grpc_address = ""
        self.http_url = ""
        self.log: list[dict[str, object]] = []
        ports = ("--grpc-port", "0", "--http-port", "0")
        serve = ("-m", "services.cli", "serve", "--repository", str(repository), *ports, *options)
        self._command = (sys.executable, *(command or serve))
        self._environment = {**os.environ, **(environment or {}), "CORNET_LOG_FORMAT": "json"}
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._is_ready = False
        self._settled = threading.Event()

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            self._command, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        self._reader.start()
        self._settled.wait(self._timeout_s)
        if not self._is_ready:
            self.stop()
            tail = "\n".join(str(line.get("text") or json.dumps(line)) for line in self.log[-20:])
            raise Unavailable(f"Expected the server to be ready within {self._timeout_s} s. Its log ends:\n{tail}")
        return self

    def stop(self, timeout_s: float = 30.0, *, number: int = signal.SIGTERM) -> int:
        process = self._running()
        process.send_signal(number)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._reader.join(_LAST_LINES_S)
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("ServerProcess.start() was not called")
        return self._process

    def _read_log(self) -> None:
        stream = self._running().stderr
        if stream is None:
            raise RuntimeError("the child's standard error is a pipe")
        with stream:
            for line in stream:
                event = _parse(line)
                self.log.append(event)
                if event.get("event") == READY_EVENT:
                    self.grpc_address, self.http_url = str(event["grpc"]), str(event.get("http") or "")
                    self._is_ready = True
                    self._settled.set()
        self._settled.set()


def _parse(line: str) -> dict[str, object]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"event": "output", "text": line.rstrip()}
