"""The Dockerfiles by their instructions: what an image must hold that no Docker engine is needed to see."""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.settings import setting_options

NAMES = ("serve-cpu", "serve-gpu", "train", "batch")
SERVING = ("serve-cpu", "serve-gpu")


@dataclass(frozen=True)
class Stage:
    """One stage: its base, its name, and its instructions as (keyword, the rest)."""

    base: str
    name: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for rest in self.all("ENV") for pair in rest.split())


def stages(text: str) -> list[Stage]:
    """Read a Dockerfile: continued lines are joined, comments dropped, keywords are upper case."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    for line in re.sub(r"\\\n\s*", " ", kept).splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            if keyword == "FROM":
                base, _, name = rest.partition(" AS ")
                found.append((base, name, []))
            else:
                found[-1][2].append((keyword, rest.strip()))
    return [Stage(base, name, tuple(instructions)) for base, name, instructions in found]


@pytest.fixture
def build(project: Path, image: str) -> Stage:
    return stages((project / f"deploy/docker/{image}.Dockerfile").read_text(encoding="utf-8"))[0]


@pytest.fixture
def final(project: Path, image: str) -> Stage:
    return stages((project / f"deploy/docker/{image}.Dockerfile").read_text(encoding="utf-8"))[-1]


every_image = pytest.mark.parametrize("image", NAMES)
serving_images = pytest.mark.parametrize("image", SERVING)


@every_image
def test_both_stages_stand_on_one_slim_base_pinned_to_a_patch_release(build: Stage, final: Stage) -> None:
    assert build.name == "build"
    assert build.base == final.base
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", final.base)


@every_image
def test_the_environment_is_exactly_a_lock_file_that_exists(project: Path, build: Stage) -> None:
    (locks,) = re.findall(r"uv pip sync \"?(deploy/locks/[^\s\"]+)", " ".join(build.all("RUN")))
    names = [locks.replace("${ACCELERATOR}", accelerator) for accelerator in ("cpu", "gpu")]

    assert any(copied.split()[0] == locks for copied in build.all("COPY"))
    assert all((project / name).is_file() for name in names)


@every_image
def test_the_installer_is_the_one_that_the_checkout_is_developed_with(project: Path, build: Stage) -> None:
    (pin,) = re.findall(r"\buv==\S+", " ".join(build.all("RUN")))

    assert f"\n{pin}\n" in (project / "deploy/locks/dev-cpu.txt").read_text(encoding="utf-8")


@every_image
def test_the_final_stage_takes_the_environment_alone_and_installs_nothing(final: Stage) -> None:
    assert final.all("COPY") == ["--from=build /opt/cornet /opt/cornet"]
    assert final.all("ADD") == []
    assert not re.search(r"apt-get|apk |pip3? install|uv |gcc|build-essential|curl|wget", " ".join(final.all("RUN")))
    assert "pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip" in " ".join(final.all("RUN"))


@every_image
def test_no_cache_of_the_installer_is_left(build: Stage) -> None:
    assert "--no-cache-dir" in " ".join(build.all("RUN"))
    assert build.environment()["UV_NO_CACHE"] == "1"


@every_image
def test_a_numbered_user_runs_it_and_only_tmp_is_written(final: Stage) -> None:
    """Kubernetes can tell that a user is not root only by its number; a home that cannot be written breaks caches."""
    assert final.all("USER") == ["10001:10001"]
    assert final.environment()["HOME"] == "/tmp"  # noqa: S108 - the image's own
    assert final.environment()["PYTHONDONTWRITEBYTECODE"] == "1"


@every_image
def test_bytecode_is_made_in_the_build_because_a_read_only_root_cannot_keep_it(build: Stage) -> None:
    assert build.environment()["UV_COMPILE_BYTECODE"] == "1"


@every_image
def test_nothing_reports_home(image: str, final: Stage) -> None:
    wanted = {"ORT_DISABLE_TELEMETRY": "1"}
    if image in SERVING:
        wanted["BENTOML_DO_NOT_TRACK"] = "true"
    if image == "batch":
        wanted["RAY_USAGE_STATS_ENABLED"] = "0"

    assert wanted.items() <= final.environment().items()


@every_image
def test_the_label_says_the_version_of_the_checkout(project: Path, final: Stage) -> None:
    version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert f'org.opencontainers.image.version="{version}"' in final.all("LABEL")[0]


@every_image
def test_signals_reach_cornet_itself(final: Stage) -> None:
    """A command in the shell's form would run below a shell, which keeps SIGTERM to itself."""
    assert final.all("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(final.all("ENTRYPOINT")[0]) == ["cornet"]
    assert isinstance(json.loads(final.all("CMD")[0]), list)


@serving_images
def test_the_ports_are_the_server_s_defaults(final: Stage) -> None:
    defaults = {name: setting_options()[name].default for name in ("grpc_port", "http_port")}

    assert final.all("EXPOSE") == [f"{defaults['grpc_port']} {defaults['http_port']}"]


@serving_images
def test_the_health_check_asks_for_readiness_without_tools_of_its_own(final: Stage) -> None:
    (check,) = final.all("HEALTHCHECK")
    program = json.loads(check.partition("CMD ")[2])

    assert program[:2] == ["python", "-c"]
    compile(program[2], "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{setting_options()['http_port'].default}/readyz" in program[2]
    assert "--start-period=" in check
    assert "--timeout=" in check


@serving_images
def test_every_setting_in_the_environment_is_one_that_exists(final: Stage) -> None:
    given = {name.removeprefix("CORNET_").lower() for name in final.environment() if name.startswith("CORNET_")}

    assert {"host", "repository"} <= given <= set(setting_options())


@pytest.mark.parametrize("lock", ["cpu", "gpu", "batch-cpu", "batch-gpu"])
def test_tensorflow_is_in_the_training_image_alone(project: Path, lock: str) -> None:
    pinned = (project / f"deploy/locks/{lock}.txt").read_text(encoding="utf-8")

    assert not re.search(r"^(tensorflow|keras|tf2onnx)==", pinned, re.MULTILINE)
    assert re.search(r"^tensorflow==", (project / "deploy/locks/train.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("lock", ["cpu", "gpu", "train", "batch-cpu", "batch-gpu"])
def test_every_lock_file_pins_what_the_tests_run_with(project: Path, lock: str) -> None:
    """An image holds no version that the tests of this checkout have not seen."""

    def pins(name: str) -> dict[str, str]:
        text = (project / f"deploy/locks/{name}.txt").read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))

    tested, image = pins("dev-gpu" if "gpu" in lock else "dev-cpu"), pins(lock)

    assert len(image) > 50
    assert {name: pin for name, pin in image.items() if tested.get(name, pin) != pin} == {}


def test_the_build_context_is_a_list_of_what_may_enter(project: Path) -> None:
    lines = (project / ".dockerignore").read_text(encoding="utf-8").split("\n")
    entries = [line for line in lines if line and not line.startswith("#")]

    assert entries[0] == "*"
    assert [e[1:] for e in entries if e.startswith("!")] == [
        *("LICENSE", "README.md", "pyproject.toml", "deploy/locks", "protos", "services", "training"),
    ]
