"""What is seen of a run while it goes on."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from training.environment import import_keras

import_keras(0, deterministic=False)

from training import callbacks  # noqa: E402  # after the quiet import of keras


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_preparation_is_told_in_a_log_at_its_beginning_and_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    console, now = Console(file=io.StringIO(), width=80), [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with callbacks.preparing([callbacks.EpochProgress(console, epochs=2)], "features", 4000) as advance:
        for second in (1.0, 61.0, 62.0, 122.0):
            now[0] = second
            advance(1000)
    assert shown(console).splitlines() == ["features: 4,000 rows", "  2,000 of 4,000", "  4,000 of 4,000"]


def test_preparation_has_a_bar_on_a_terminal_and_leaves_none() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, force_interactive=True)
    progress = callbacks.EpochProgress(console, epochs=2)
    with progress:
        with callbacks.preparing([progress], "features", 4000) as advance:
            advance(1000)
            progress._progress.refresh()
            assert "row 1,000/4,000" in shown(console)
        console.file.truncate(0)
        progress._progress.refresh()
        assert "row" not in shown(console)
        assert "epoch 0/2" in shown(console)


def test_preparation_without_a_run_around_it_is_silent() -> None:
    with callbacks.preparing([], "features", 10) as advance:
        advance(10)
