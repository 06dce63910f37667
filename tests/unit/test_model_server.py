"""tensorflow_model_server's flags become our settings and model configurations."""

from pathlib import Path

import pytest

from services.engine.version_policy import All, Latest, Specific
from services.errors import InvalidArgument, Unimplemented
from services.model_server import parse_flags


def test_one_model_is_named_default_and_http_is_off_unless_asked_for() -> None:
    line = parse_flags(["--model_base_path=/models/half"])

    assert [(config.name, config.path) for config in line.configs] == [("default", Path("/models/half"))]
    assert line.configs[0].policy == Latest(1)
    assert (line.settings.grpc_port, line.settings.host, line.http) == (8500, "0.0.0.0", False)


def test_ports_and_polling_are_taken_over() -> None:
    line = parse_flags(
        ["--port=9000", "--rest_api_port=9001", "--model_base_path=/m", "--file_system_poll_wait_seconds", "5"]
    )

    assert (line.settings.grpc_port, line.settings.http_port, line.http) == (9000, 9001, True)
    assert line.settings.poll_interval_s == 5


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Latest(1)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all {} }", All()),
        ("model_version_policy { specific { versions: 7 versions: 2 } }", Specific((2, 7))),
    ],
)
def test_a_configuration_file_names_models_policies_and_labels(
    tmp_path: Path, policy: str, expected: Latest | All | Specific
) -> None:
    file = tmp_path / "models.config"
    file.write_text(
        f"""model_config_list {{
          config {{ name: "a" base_path: "/m/a" model_platform: "tensorflow" {policy}
                    version_labels {{ key: "stable" value: 2 }} }}
          config {{ name: "b" base_path: "/m/b" }}
        }}""",
        encoding="utf-8",
    )

    first, second = parse_flags([f"--model_config_file={file}"]).configs

    assert (first.name, first.path, first.policy, first.labels) == ("a", Path("/m/a"), expected, {"stable": 2})
    assert (second.name, second.path) == ("b", Path("/m/b"))


def test_batching_parameters_count_rows_and_apply_to_every_model(tmp_path: Path) -> None:
    file = tmp_path / "batching.txt"
    file.write_text(
        """max_batch_size { value: 16 } batch_timeout_micros { value: 500 } max_enqueued_batches { value: 4 }
           num_batch_threads { value: 2 } allowed_batch_sizes: 4 allowed_batch_sizes: 16""",
        encoding="utf-8",
    )

    line = parse_flags(["--model_base_path=/m", "--enable_batching", f"--batching_parameters_file={file}"])

    batching = line.configs[0].batching
    assert (batching.max_batch_rows, batching.max_queue_delay_us, batching.max_queue_rows) == (16, 500, 64)
    assert batching.allowed_batch_rows == (4, 16)


def test_flags_of_tensorflows_own_runtime_are_accepted_and_named() -> None:
    line = parse_flags(
        [
            "--model_base_path=/m",
            "--tensorflow_session_parallelism=2",
            "--enable_model_warmup=false",
            "--xla_cpu_compilation_enabled",
        ]
    )

    assert set(line.without_effect) == {
        "tensorflow_session_parallelism",
        "enable_model_warmup",
        "xla_cpu_compilation_enabled",
    }


@pytest.mark.parametrize("flag", ["--ssl_config_file=/tls.txt", "--use_alts_credentials"])
def test_a_flag_that_must_not_be_ignored_is_refused(flag: str) -> None:
    with pytest.raises(Unimplemented, match=flag.partition("=")[0]):
        parse_flags(["--model_base_path=/m", flag])


@pytest.mark.parametrize(
    ("flag", "path"), [("--grpc_socket_path=/run/grpc", Path("/run/grpc")), ("--grpc_socket_path=", None)]
)
def test_grpc_may_have_a_unix_socket_too(flag: str, path: Path | None) -> None:
    assert parse_flags(["--model_base_path=/m", flag]).settings.grpc_socket == path


def test_a_refused_flag_may_be_given_as_off() -> None:
    assert parse_flags(["--model_base_path=/m", "--use_alts_credentials=false"]).configs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model_config_list { config { name: 'a' } }", "name and base_path"),
        (
            "model_config_list { config { name: 'a' base_path: '/a' } config { name: 'a' base_path: '/b' } }",
            "more than once",
        ),
        ("models: 1", "ModelServerConfig"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_with_its_file(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(InvalidArgument, match=message) as caught:
        parse_flags([f"--model_config_file={file}"])
    assert "models.config" in str(caught.value)


def test_without_any_model_the_flags_that_name_one_are_listed() -> None:
    with pytest.raises(InvalidArgument, match=r"--model_base_path or --model_config_file"):
        parse_flags(["--port=1"])


def test_an_unknown_flag_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["--model_base_path=/m", "--no_such_flag=1"])
    assert "--no_such_flag" in capsys.readouterr().err
