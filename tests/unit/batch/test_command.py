"""`cornet batch`: what it prints, and what its exit status says."""

import io
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from services.batch import command
from services.batch.command import batch_app


def _batch(repository: Path, *arguments: str) -> Result:
    return CliRunner().invoke(batch_app, [*arguments, "--repository", str(repository)])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "in.csv"
    path.write_text("x,y\n1,1\nbad,1\n", encoding="utf-8")
    return path


def test_the_exit_status_says_what_happened(repository: Path, table: Path, tmp_path: Path) -> None:
    def status(*options: str, model: str = "regressor", source: str = str(table)) -> int:
        return _batch(repository, model, "--input", source, "--output", str(tmp_path / "out"), *options).exit_code

    assert status() == 0
    assert status("--max-error-rate", "0.4") == 3
    assert status("--limit", "1") == 4
    assert status("--max-error-rate", "7") == 2
    assert status(source="in.xls") == 1
    assert status(source="no://scheme") == 2
    assert status(model="nobody") == 1


@pytest.fixture
def on_ray(
    repository: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str | None], Result]:
    """`on_ray(address)`: a job on a cluster, in an environment where Ray itself is never asked: it would look for minutes."""
    monkeypatch.setitem(sys.modules, "ray", None)
    files = ["--input", str(table), "--output", str(tmp_path / "out"), "--engine", "ray"]
    return lambda address: _batch(repository, "regressor", *files, *(["--address", address] if address else []))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", None])
def test_a_ray_cluster_that_is_not_there_is_said_at_once(
    on_ray: Callable[[str | None], Result], monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        done = on_ray(address and address.format(port))

    assert done.exit_code == 1
    assert f"127.0.0.1:{port}. Received: " in done.stderr
    assert "Connection refused" in done.stderr


def test_a_server_that_is_no_ray_cluster_is_said_at_once(on_ray: Callable[[str | None], Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(64)

        answering = threading.Thread(target=answer)
        answering.start()
        done = on_ray(f"127.0.0.1:{server.getsockname()[1]}")
        answering.join()

    assert done.exit_code == 1
    assert "another server" in done.stderr


def test_the_summary_is_printed_and_the_progress_is_on_standard_error(
    repository: Path, table: Path, tmp_path: Path
) -> None:
    done = _batch(repository, "regressor", "--input", str(table), "--output", str(tmp_path / "out"))

    assert done.stdout.startswith("regressor/1: 1 rows, 1 errors in ")
    assert "busy time: read" in done.stdout
    assert done.stderr == "2 records\n"


def test_a_terminal_gets_a_bar_with_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)

    with command._progress(console) as update:
        update(40, 0, 100)
        update(60, 1, 100)
        update(100, 2, 100)

    assert "100 records, 40 of them done before, 60 to do" in screen.getvalue()
    assert "100/100" in screen.getvalue()
    assert "/s" in screen.getvalue()
    assert "2 bad" in screen.getvalue()
