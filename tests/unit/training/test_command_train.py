"""The `train` command before any training: its lists, its errors, and that they are quick."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from services.errors import CornetError
from training.__main__ import register
from training.pipelines import pipelines


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    return app


def refusal(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert isinstance(result.exception, CornetError), result.output
    return str(result.exception)


def test_list_shows_every_family(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["train", "--list"])
    assert result.exit_code == 0
    assert all(family in result.output for family in pipelines())


def test_list_of_a_family_shows_its_options(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["train", "autoencoder", "--list"], env={"COLUMNS": "200"})
    assert "bottleneck" in result.output
    assert "quantile" in result.output


def test_an_unknown_family_lists_the_known_ones(app: typer.Typer) -> None:
    message = refusal(app, "regresor")
    assert "Did you mean regressor?" in message
    assert "autoencoder" in message


def test_no_family_lists_the_known_ones(app: typer.Typer) -> None:
    assert "Expected a family: one of autoencoder" in refusal(app)


@pytest.mark.parametrize(
    "arguments", [["--set", "dropuot=0.2"], ["--dropuot", "0.2"], ["--dropuot=0.2"], ["--dropuot"]]
)
def test_an_unknown_option_is_refused_however_it_is_given(app: typer.Typer, arguments: list[str]) -> None:
    message = refusal(app, "regressor", *arguments)
    assert "Unknown option 'dropuot'" in message
    assert "dropout" in message


def test_a_flag_is_the_same_as_a_setting(app: typer.Typer) -> None:
    assert refusal(app, "regressor", "--dropout", "7") == refusal(app, "regressor", "--set", "dropout=7")


def test_a_stray_word_is_refused(app: typer.Typer) -> None:
    assert "Received: 'extra'" in refusal(app, "regressor", "extra")


def test_a_search_for_a_learning_rate_is_no_training_run(app: typer.Typer) -> None:
    message = refusal(app, "regressor", "--find-lr", "--diagnose", "--resume")
    assert "Expected --find-lr without --resume and --diagnose" in message


def test_a_family_that_learns_nothing_has_no_diagnosis(app: typer.Typer) -> None:
    assert "Received: vgg16" in refusal(app, "vgg16", "--diagnose", "--set", "weights=random")


def test_neither_help_nor_lists_nor_data_errors_import_keras() -> None:
    script = """
import sys
from typer.testing import CliRunner
import typer
from training.__main__ import register
app = typer.Typer()
register(app)
app.callback()(lambda: None)
for words in (["--help"], ["--list"], ["regressor", "--list"], ["regressor", "--data", "absent.csv", "--target", "y"]):
    CliRunner().invoke(app, ["train", *words])
print(sorted({"keras", "tensorflow", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--precision", "fp8"], ["--quantization", "some"], ["--most-loss", "2"]])
def test_a_precision_that_there_is_not_is_refused(app: typer.Typer, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["train", "classifier", *arguments])
    assert result.exit_code == 2
