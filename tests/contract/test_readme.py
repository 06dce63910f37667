"""The README's commands, run as they stand there: only the ports are replaced, because a test takes free ones."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.launch import ServerProcess

pytestmark = pytest.mark.timeout(900)  # the first test that asks for the workplace waits for every training command

_FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": "Makefile",
    "make k8s-check": "Makefile",
    "cornet serve": "tests/contract/test_readme.py",
}
"""Commands that run, but not here: the file that runs them."""


def _blocks(project: Path, language: str) -> list[str]:
    readme = (project / "README.md").read_text(encoding="utf-8")
    return [body for kind, body in _FENCE.findall(readme) if kind == language]


def _commands(project: Path) -> list[str]:
    """Every command of the shell blocks, without comments; a command may span lines."""
    joined = "".join(_blocks(project, "sh"))
    lines = re.split(r"\n(?=(?:make|cornet|curl|kubectl) )", joined)
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]


@pytest.fixture(scope="module")
def workplace(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which every training command of the README has run, in order."""
    directory = tmp_path_factory.mktemp("readme")
    _run_python(
        directory, "import keras; keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save('my_model.keras')"
    )
    rows = ["age,sex,bmi,bp,s1,s2,s3,s4,s5,s6", *["59,2,32.1,101,157,93.2,38,4,4.86,87"] * 20]
    (directory / "patients.csv").write_text("\n".join(rows), encoding="utf-8")
    for command in _commands(project):
        if command.startswith("cornet ") and not command.startswith("cornet loadtest") and command not in _ELSEWHERE:
            _run(["bash", "-euo", "pipefail", "-c", command], directory)
    return directory


@pytest.fixture(scope="module")
def served(workplace: Path) -> Iterator[ServerProcess]:
    with ServerProcess(workplace / "exported_models") as server:
        yield server


def test_what_is_not_run_here_is_run_by_the_file_that_says_so(project: Path) -> None:
    for command, file in _ELSEWHERE.items():
        assert command.removeprefix("make ") in (project / file).read_text(encoding="utf-8")


def test_every_shell_command_is_one_that_a_test_knows_how_to_run(project: Path) -> None:
    unknown = [
        c
        for c in _commands(project)
        if not c.startswith(("cornet ", "curl ", "kubectl kustomize ")) and c not in _ELSEWHERE
    ]

    assert unknown == []


def test_the_training_commands_leave_what_they_promise(workplace: Path) -> None:
    exported = {path.parent.parent.name for path in workplace.glob("exported_models/*/*/manifest.json")}

    assert exported == {"classifier", "regressor", "sgd", "elsewhere"}
    assert list(workplace.glob("runs/classifier/*/report.html"))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_manifests_render(project: Path) -> None:
    (command,) = (command for command in _commands(project) if command.startswith("kubectl "))

    assert "kind: Deployment" in _run(["bash", "-c", command], project)


def test_the_curl_commands_are_answered(project: Path, served: ServerProcess) -> None:
    commands = [command for command in _commands(project) if command.startswith("curl ")]
    answers = [
        _run(["bash", "-c", _here(command.replace("curl -s", "curl -sS --fail-with-body"), served)], served.repository)
        for command in commands
    ]

    assert len(answers) >= 5
    assert '"predictions"' in answers[0]
    assert '"outputs"' in answers[1]
    assert '"prediction"' in answers[2]


def test_the_load_tests_measure_the_server_and_compare(project: Path, workplace: Path, served: ServerProcess) -> None:
    commands = [command for command in _commands(project) if command.startswith("cornet loadtest")]
    for command in commands:
        address = served.http_url.removeprefix("http://") if "rest" in command else served.grpc_address
        where = "" if "compare" in command else f" --address {address}"
        _run(["bash", "-c", command + where], workplace)

    assert len(commands) == 3
    assert (workplace / "before.html").stat().st_size > 10_000


def test_the_python_examples_print_the_same_prediction(project: Path, workplace: Path, served: ServerProcess) -> None:
    outputs = [_run_python(workplace, _here(body, served)) for body in _blocks(project, "python")]

    found = (re.search(r"\[\[([-\d.e+]+)\]\]", output) for output in outputs)
    predictions = [float(match[1]) for match in found if match]
    assert len(predictions) == 3
    assert predictions == pytest.approx([predictions[0]] * 3, rel=1e-5)


def _here(text: str, server: ServerProcess) -> str:
    return text.replace("localhost:8501", server.http_url.removeprefix("http://")).replace(
        "localhost:8500", server.grpc_address
    )


def _run_python(directory: Path, program: str) -> str:
    return _run([sys.executable, "-c", program], directory)


def _run(command: list[str], directory: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
