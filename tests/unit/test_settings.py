import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from services.errors import InvalidArgument
from services.settings import Settings, read_settings, setting_options


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in setting_options():
        monkeypatch.delenv(f"CORNET_{name.upper()}", raising=False)


def test_an_option_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_HTTP_PORT", "9001")
    monkeypatch.setenv("CORNET_GRPC_PORT", "9002")

    settings = read_settings(http_port=9003, host=None)

    assert (settings.http_port, settings.grpc_port, settings.host) == (9003, 9002, "127.0.0.1")


def test_providers_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_PROVIDERS", "CUDAExecutionProvider, CPUExecutionProvider")

    assert read_settings().providers == ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_REQUEST_LOG", "")
    monkeypatch.setenv("CORNET_HTTP_PORT", "")

    assert read_settings() == Settings()


def test_variables_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_SOMETHING_ELSE", "1")

    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("REPOSITORY", "models", Path("models")),
        ("MODELS_FILE", "/etc/models.toml", Path("/etc/models.toml")),
        ("WORKERS", "3", 3),
        ("DRAIN_TIMEOUT_S", "2.5", 2.5),
        ("POLL_INTERVAL_S", "0", 0.0),
        ("TYPED_ENDPOINTS", "False", False),
        ("GPU_TF32", "1", True),
        ("GRPC_COMPRESSION", "gzip", "gzip"),
        ("GRPC_COMPRESSION", "none", None),
        ("SERVER_NAME", "triton", "triton"),
    ],
)
def test_a_variable_becomes_a_value_of_the_fields_type(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CORNET_{name}", text)

    read = getattr(read_settings(), name.lower())

    assert (read, type(read)) == (value, type(value))


def test_every_value_that_does_not_fit_is_named_with_what_was_expected_and_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CORNET_GRPC_PORT", "many")
    monkeypatch.setenv("CORNET_REQUEST_LOG_RATE", "nan")
    monkeypatch.setenv("CORNET_LOG_FORMAT", "xml")
    monkeypatch.setenv("CORNET_GRPC_MAX_MESSAGE_BYTES", "2147483648")

    with pytest.raises(InvalidArgument) as caught:
        read_settings(http_port=70000)

    for problem in (
        "grpc_port: expected int from 0 to 65535. Received: 'many'.",
        "http_port: expected int from 0 to 65535. Received: 70000.",
        "request_log_rate: expected float above 0 to 1. Received: 'nan'.",
        "log_format: expected console | json. Received: 'xml'.",
        "grpc_max_message_bytes: expected int from 1 to 2147483647. Received: '2147483648'.",
    ):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"workers": 0}, {"workers": True}, {"http_port": 1.5}, {"gpu_tf32": 1}, {"host": None}, {"providers": 3}]
)
def test_values_of_the_wrong_type_or_range_are_refused_where_no_text_is_read(values: dict[str, object]) -> None:
    (name,) = values

    with pytest.raises(InvalidArgument, match=f"{name}: expected"):
        Settings(**values)  # type: ignore[arg-type] # that they do not fit is the test


def test_settings_handed_to_another_process_are_the_same_whatever_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = read_settings(providers="CPUExecutionProvider", request_log="logs", poll_interval_s=2, grpc_port=0)
    handed = json.dumps(settings.plain())
    monkeypatch.setenv("CORNET_GRPC_PORT", "9")

    assert Settings(**json.loads(handed)) == settings


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(FrozenInstanceError):
        read_settings().http_port = 1  # type: ignore[misc] # that it cannot be is the test


def test_every_field_says_what_it_is_for() -> None:
    assert [name for name, option in setting_options().items() if not option.help] == []


def test_the_readme_lists_every_setting(project: Path) -> None:
    readme = (project / "README.md").read_text(encoding="utf-8")

    assert [name for name in setting_options() if f"`CORNET_{name.upper()}`" not in readme] == []
