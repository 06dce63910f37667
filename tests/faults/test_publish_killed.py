"""An export that is killed, or finds the disk full, never leaves a half version."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.engine.verification import list_versions, verify

SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
from training.environment import import_keras
import_keras(0, deterministic=False)
import keras, numpy as np
from services.errors import CornetError
from services.manifest import Provenance
from services.tensors import BY_NAME, Signature, TensorSpec
from training.exporter import STAGES, export
from training.pipeline import ServingModel

def publish(repository, progress=None):
    x = keras.Input((4,), name="features")
    model = keras.Model({"features": x}, {"prediction": keras.layers.Dense(1)(x)})
    spec = lambda name, width: TensorSpec(name, BY_NAME["float32"], (-1, width))
    serving = ServingModel(model, Signature((spec("features", 4),), (spec("prediction", 1),)))
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype("float32")
    export(serving, repository=repository, name="model", family="test", task="", processor=None,
           samples={"features": rows}, metrics={}, baseline={}, provenance=Provenance(), progress=progress)

def killed_at(stage):
    def progress(reached):
        if reached == stage:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress

def full_disk(repository):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        publish(repository)
    except CornetError as error:
        print("full", type(error).__name__, flush=True)

# TensorFlow is imported once; each case runs in a fork of a process that has not computed anything yet.
root = Path(sys.argv[1])
cases = {stage: lambda stage=stage: publish(root / stage, killed_at(stage)) for stage in STAGES}
cases["full"] = lambda: full_disk(root / "full")
for name, case in cases.items():
    pid = os.fork()
    if pid == 0:
        case()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(name, os.WTERMSIG(status) if os.WIFSIGNALED(status) else "exit", flush=True)
publish(root / "parity")
"""

STAGES = ("saved_model", "onnx", "assets", "parity", "manifest", "sync", "publish", "published")


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, project: Path) -> tuple[Path, list[str]]:
    """Repositories by the stage at which an export into them was killed, and what was told about each."""
    root = tmp_path_factory.mktemp("crashed")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)], cwd=project, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout.splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_reached_and_killed(crashed, stage):
    assert f"{stage} 9" in crashed[1]


@pytest.mark.parametrize("stage", [stage for stage in STAGES[:-1] if stage != "parity"])
def test_killed_before_the_rename_no_version_is_visible(crashed, stage):
    assert list_versions(crashed[0] / stage) == []


def test_killed_before_the_rename_only_a_temporary_directory_remains(crashed):
    left = [entry.name for entry in (crashed[0] / "publish" / "model").iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".tmp-1-")


def test_killed_after_the_rename_the_version_is_whole(crashed):
    (row,) = list_versions(crashed[0] / "published")
    assert verify(row.path).problems == ()


def test_the_next_export_takes_the_version_and_removes_what_the_killed_one_left(crashed):
    assert [entry.name for entry in (crashed[0] / "parity" / "model").iterdir()] == ["1"]


def test_a_full_disk_is_reported(crashed):
    assert "full ResourceExhausted" in crashed[1]


def test_a_full_disk_leaves_nothing(crashed):
    assert list((crashed[0] / "full" / "model").iterdir()) == []
