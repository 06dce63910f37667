"""Child processes on cores of their own, what they cost as /proc tells it, and their certain end."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 6.0
_PORTS = range(20_000, 30_000)


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, all different, and below those that the kernel gives to clients: a server that takes
    its time to bind would find them taken."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            try:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"Expected {count} free ports from {_PORTS.start} to {_PORTS.stop}. Received: {len(ports)}.")


@dataclass(frozen=True)
class Slot:
    """Where a process runs: on which cores, and with what priority (nice; below 0 needs root)."""

    cores: tuple[int, ...]
    nice: int = 0

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: int | IO[bytes],
        folder: Path | None = None,
    ) -> "subprocess.Popen[bytes]":
        """A process in a session of its own, which Linux may schedule as one group: the group gets the priority as well."""
        pinned = ["taskset", "-c", ",".join(map(str, self.cores)), *command]
        process = subprocess.Popen(
            ["nice", "-n", str(self.nice), *pinned] if self.nice else pinned,
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.prioritise([process.pid])
        return process

    def prioritise(self, pids: Iterable[int]) -> None:
        """Give the groups of these processes the priority; where the kernel has no such groups, their own is all."""
        for pid in pids if self.nice else ():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/autogroup").write_text(str(self.nice))


class Child:
    """A process and all below it in its slot, its output in a file. `stop` ends every one of them."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], slot: Slot, log: Path, folder: Path
    ) -> None:
        self.log = log
        self._slot = slot
        self.began = time.perf_counter()
        with log.open("ab") as output:
            self._process = slot.start(command, environment, output, folder)
        self.pid = self._process.pid

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    def tail(self, lines: int = 8) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def cpu_s(self) -> float:
        """Seconds on a CPU so far, user and system, of all its processes that are alive."""
        return sum(_cpu_ticks(pid) for pid in self.pids()) / _TICKS

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory, and its proportional share where pages are shared, of all its processes."""
        rss = pss = 0
        for pid in self.pids():
            with contextlib.suppress(OSError), Path(f"/proc/{pid}/smaps_rollup").open() as file:
                sizes = {line.split(":")[0]: line.split()[1] for line in file if line.startswith(("Rss:", "Pss:"))}
                rss += int(sizes.get("Rss", 0)) * 1024
                pss += int(sizes.get("Pss", 0)) * 1024
        return rss, pss

    def prioritise(self) -> None:
        """Again, for what it has started meanwhile in sessions of their own."""
        self._slot.prioritise(self.pids())

    def pids(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left after a few seconds. Waits until all are gone."""
        family = self.pids()
        if self._process.poll() is None:
            self._process.terminate()
        if not self._gone(family):
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in family:
                    if pid != self.pid or self._process.poll() is None:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, number)
                if self._gone(family):
                    break
        self._process.wait()

    def _gone(self, pids: Sequence[int]) -> bool:
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if self._process.poll() is not None and not any(map(_alive, pids)):
                return True
            time.sleep(0.02)
        return False


def descendants(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    children: dict[int, list[int]] = {}
    for number, parent in _parents():
        children.setdefault(parent, []).append(number)
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def run(command: Sequence[str], slot: Slot, timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a generator in its slot and return what it printed. Raises RuntimeError where it fails or takes too long."""
    process = slot.start(command, environment or {}, subprocess.PIPE)
    try:
        output = process.communicate(timeout=timeout_s)[0].decode(errors="replace")
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"{command[0]} took longer than {timeout_s:.0f} s") from None
        raise
    if process.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {output[-400:]}")
    return output


def core_ticks(cores: Iterable[int]) -> float:
    """Seconds that the cores were busy, by anything at all, since the machine started."""
    names = {f"cpu{core}" for core in cores}
    with Path("/proc/stat").open() as file:
        rows = [line.split() for line in file]
    return sum(sum(map(int, row[1:4])) + sum(map(int, row[6:9])) for row in rows if row[0] in names) / _TICKS


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                yield int(folder.name), int(fields[1])


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name, which may hold blanks itself; empty where the process is gone."""
    file: IO[str]
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"
