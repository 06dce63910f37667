"""The command line as a user meets it: each test starts it as a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from services import app, cli, serve_command
from services.settings import Settings, setting_options


def _cornet(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments], capture_output=True, text=True, timeout=60, cwd=directory
    )


def test_help_lists_the_commands_of_serving_and_training() -> None:
    done = _cornet("--help")

    assert done.returncode == 0
    assert all(command in done.stdout for command in ("serve", "train", "export", "models", "version"))


def test_an_error_of_ours_is_one_line_on_standard_error() -> None:
    done = _cornet("serve", "--grpc-port", "99999")

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "grpc_port" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_of_serve_describes_an_option_for_every_setting() -> None:
    done = _cornet("serve", "--help")

    words = done.stdout.replace(",", " ").split()
    assert done.returncode == 0
    assert [name for name in setting_options() if f"--{name.replace('_', '-')}" not in words] == []
    assert {"-h", "--models", "--no-typed-endpoints"} <= set(words)
    assert "Port of gRPC; 0 picks a free one. [from 0 to 65535; default 8500]" in " ".join(done.stdout.split())


def test_an_option_that_serve_does_not_have_is_bad_usage_with_and_without_help() -> None:
    for arguments in (("--prot", "1"), ("--prot", "1", "--help"), ("somewhere",)):
        done = _cornet("serve", *arguments)

        assert done.returncode == 2
        assert f"unrecognized arguments: {arguments[0]}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        (["--models", "m.toml"], "models_file", Path("m.toml")),
        (["--models-file=m.toml"], "models_file", Path("m.toml")),
        (["--no-typed-endpoints"], "typed_endpoints", False),
        (["--gpu-tf32"], "gpu_tf32", True),
        (["--request-log-rate", "0.25"], "request_log_rate", 0.25),
    ],
)
def test_an_option_wins_over_the_environment(
    arguments: list[str], setting: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(app, "run", served.append)
    monkeypatch.setenv("CORNET_MODELS_FILE", "other.toml")
    monkeypatch.setenv("CORNET_REQUEST_LOG_RATE", "0.5")

    serve_command.main(arguments)

    assert [getattr(settings, setting) for settings in served] == [value]


def test_a_repository_that_does_not_exist_is_listed_as_an_error_that_names_it(tmp_path: Path) -> None:
    done = _cornet("models", "--repository", str(tmp_path / "nowhere"))

    assert done.returncode == 1
    assert "nowhere" in done.stderr


_HELP = """
import sys
from services import cli
sys.argv[1:] = ["train", "--help"]
try:
    cli.main()
except SystemExit:
    pass
sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)
"""


def test_help_of_training_does_not_import_tensorflow() -> None:
    assert subprocess.run([sys.executable, "-c", _HELP], capture_output=True, timeout=60).returncode == 0


def test_a_missing_package_is_answered_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(cli, "_run", fail)

    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "pip install 'cornet[train]'" in capsys.readouterr().err
