from pathlib import Path

import pytest
from pydantic import ValidationError

from services.errors import InvalidArgument
from services.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CORNET_{name.upper()}", raising=False)


def test_an_option_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_HTTP_PORT", "9001")
    monkeypatch.setenv("CORNET_GRPC_PORT", "9002")

    settings = read_settings(http_port=9003, host=None)

    assert (settings.http_port, settings.grpc_port, settings.host) == (9003, 9002, "127.0.0.1")


def test_providers_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_PROVIDERS", "CUDAExecutionProvider, CPUExecutionProvider")

    assert read_settings().providers == ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_a_value_that_does_not_fit_names_the_field_and_what_was_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORNET_GRPC_PORT", "many")

    with pytest.raises(InvalidArgument, match=r"grpc_port: .*Received: 'many'"):
        read_settings(http_port=70000)


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        read_settings().http_port = 1


def test_every_field_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_readme_lists_every_setting(project: Path) -> None:
    readme = (project / "README.md").read_text(encoding="utf-8")

    assert [name for name in Settings.model_fields if f"`CORNET_{name.upper()}`" not in readme] == []
