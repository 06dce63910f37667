"""Processes that are started for a benchmark."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.load.bench import processes
from tests.load.bench.processes import Child, Slot, run

HERE = Slot((min(os.sched_getaffinity(0)),))
PARENT = """
import os, signal, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", flush=True)
time.sleep(60)
"""
WORK = """
import os, time
while time.process_time() < 0.2:
    pass
print(os.sched_getaffinity(0), "done", flush=True)
time.sleep(60)
"""


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


def test_stop_ends_a_process_and_all_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.load.bench.processes._PATIENCE_S", 0.2)
    child = Child([sys.executable, "-c", PARENT], {}, HERE, tmp_path / "log", tmp_path)
    wait_for(tmp_path / "log", "up")
    family = child.pids()
    assert len(family) == 2
    child.stop()
    assert not any(map(processes._alive, family))
    assert child.exit_status is not None


def test_a_process_is_pinned_and_its_cpu_time_and_memory_are_counted(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", WORK], {}, HERE, tmp_path / "log", tmp_path)
    try:
        wait_for(tmp_path / "log", "done")
        assert f"{{{HERE.cores[0]}}}" in (tmp_path / "log").read_text()
        assert child.cpu_s() >= 0.1  # of 0.2, which the kernel counts in ticks
        rss, pss = child.memory_bytes()
        assert rss >= pss > 1_000_000
    finally:
        child.stop()


def test_a_generator_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such server"):
        run([sys.executable, "-c", "raise SystemExit('no such server')"], HERE, timeout_s=30)


def test_a_generator_that_hangs_is_ended() -> None:
    with pytest.raises(RuntimeError, match="took longer"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], HERE, timeout_s=0.2)
