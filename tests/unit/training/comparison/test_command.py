"""`cornet compare` as a user meets it: on versions that were really trained, in a process without TensorFlow."""

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from services.errors import CornetError, DataError, FailedPrecondition, InvalidArgument, ModelNotFound
from services.manifest import Manifest
from training.comparison.candidates import select
from training.comparison.command import compare
from training.comparison.judge import judge
from training.comparison.measure import measure
from training.comparison.rows import rows_for
from training.options import parse
from training.pipeline import Source
from training.pipelines import find
from training.precision.options import Precision, VariantOptions
from training.runner import Job, train

# Keras reads the learning rate in a way that numpy warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROGRAM = (
    "import sys\nfrom services.cli import main\n"
    "try:\n    main()\nfinally:\n    print('tensorflow' in sys.modules, 'keras' in sys.modules)"
)


@dataclass(frozen=True)
class Trained:
    """A repository with `signs/1`, a classifier of the table, and `signs-fp16/1`, the same in half precision."""

    repository: Path
    runs: Path
    table: Path


def write_table(path: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    values = random.normal(size=(240, 2))
    kinds = np.where(values[:, 0] * values[:, 1] > 0, "same", "other")
    path.write_text(
        "a,b,kind\n" + "".join(f"{a:.4f},{b:.4f},{kind}\n" for (a, b), kind in zip(values, kinds, strict=True))
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("work")
    table = write_table(folder / "signs.csv", seed=0)
    pipeline = find("classifier")
    options = parse(pipeline.options, ["units=8", "epochs=2", "batch_size=16"])
    source, variants = Source(table, "kind"), VariantOptions((Precision.FP16,))
    job = Job(pipeline, options, source, "signs", folder / "models", folder / "runs", variants=variants)
    train(job, Console(file=io.StringIO()))
    return Trained(folder / "models", folder / "runs", table)


@pytest.fixture(scope="module")
def compared(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What one comparison printed, and the folder of its report and figures."""
    folder = tmp_path_factory.mktemp("comparison")
    command = ["compare", "signs", "signs-fp16/1", "--repository", str(trained.repository), "--runs", str(trained.runs)]
    command += ["--data", str(trained.table), "--target", "kind", "--seconds", "0"]
    command += ["--html", str(folder / "c.html"), "--json", str(folder / "c.json")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, timeout=120, env={"COLUMNS": "160"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_a_comparison_of_classifiers_takes_no_tensorflow(compared: tuple[str, Path]) -> None:
    assert compared[0].splitlines()[-1] == "False False"


def test_the_metrics_are_those_of_the_training_run_on_the_same_rows(
    compared: tuple[str, Path], trained: Trained
) -> None:
    figures = json.loads((compared[1] / "c.json").read_text())
    manifest = Manifest.read(trained.repository / "signs" / "1")
    assert figures["data"]["rows"] == 48
    assert figures["models"][0]["metrics"] == pytest.approx(dict(manifest.metrics), abs=1e-4)
    (baseline,) = figures["baselines"]
    assert (baseline["name"], baseline["metrics"]) == ("logistic regression", pytest.approx(dict(manifest.baseline)))


def test_what_cannot_be_told_apart_is_said(compared: tuple[str, Path]) -> None:
    output, folder = compared
    assert "signs/1 has the best accuracy" in output
    assert "signs-fp16/1 cannot be told from it" in output
    figures = json.loads((folder / "c.json").read_text())
    assert figures["best"] == "signs/1"
    best, other = (model["difference"] for model in figures["models"])
    assert best is None
    assert other["low"] <= other["value"] <= other["high"]
    assert other["chance"]


def test_sizes_times_and_training_are_told(compared: tuple[str, Path], trained: Trained) -> None:
    full, half = json.loads((compared[1] / "c.json").read_text())["models"]
    # 2 -> 8 -> 2 with biases, and the mean and spread of the two columns.
    assert abs(full["parameters"] - (3 * 8 + 9 * 2)) <= 8
    assert full["onnx_bytes"] == (trained.repository / "signs" / "1" / "model.onnx").stat().st_size
    assert full["saved_model_bytes"] > full["onnx_bytes"]
    assert half["saved_model_bytes"] is None
    assert (full["precision"], half["precision"]) == ("fp32", "fp16")
    assert full["trained"] == half["trained"]
    assert full["trained"]["epochs"] == 2
    assert full["trained"]["seconds"] > 0
    assert [latency["concurrent"] for latency in full["latencies"]] == [1, 32, 64]
    assert all(0 < latency["p50_ms"] <= latency["p99_ms"] for latency in full["latencies"])


def test_the_report_is_one_file_without_scripts(compared: tuple[str, Path]) -> None:
    html = (compared[1] / "c.html").read_text()
    assert "<script" not in html
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    for title in ("Metric and latency", "Metric and size", "signs/1: confusion", "signs-fp16/1: confusion"):
        assert f"<h2>{title}</h2>" in html


def test_a_place_for_the_report_that_is_none_is_refused_before_anything_is_measured(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.environment.show_warnings", lambda _: None)  # it outlives the test
    with pytest.raises(FailedPrecondition, match=r"able to write the report .* Is a directory"):
        compare(["signs", "signs-fp16"], repository=trained.repository, data=tmp_path / "missing", html=tmp_path)


def test_rows_that_none_has_seen_are_all_used_under_the_models_labels(trained: Trained, tmp_path: Path) -> None:
    candidates = select(trained.repository, ["signs", "signs-fp16"])
    fresh = write_table(tmp_path / "fresh.csv", seed=1)
    rows = rows_for(candidates, fresh, "kind")
    assert (rows.fresh, len(rows), rows.baselines) == (True, 240, ())
    fresh.write_text(fresh.read_text().replace("other", "unheard"))
    with pytest.raises(DataError, match=r"labels out of other, same\. Found unheard"):
        rows_for(candidates, fresh, "kind")


def test_rows_are_refused_that_some_version_may_have_learnt(trained: Trained, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(trained.repository, repository)
    path = repository / "signs-fp16" / "1"
    manifest = Manifest.read(path)
    provenance = manifest.provenance
    replace(manifest, provenance=replace(provenance, options={**provenance.options, "seed": 7})).write(path)
    with pytest.raises(
        FailedPrecondition, match=r"held out the same rows.*signs/1 with seed=0 and signs-fp16/1 with seed=7"
    ):
        rows_for(select(repository, ["signs", "signs-fp16"]), trained.table, "kind")
    replace(manifest, provenance=replace(provenance, dataset_sha256="0" * 64)).write(path)
    with pytest.raises(FailedPrecondition, match=r"signs/1 was trained on and others were not"):
        rows_for(select(repository, ["signs", "signs-fp16"]), trained.table, "kind")
    with pytest.raises(FailedPrecondition, match=r"by --data\. Received: none, which stands for scikit-learn wine"):
        rows_for(select(repository, ["signs", "signs-fp16"]), None, None)


def test_the_target_is_the_one_that_the_versions_were_trained_for(trained: Trained) -> None:
    candidates = select(trained.repository, ["signs", "signs-fp16"])
    asked, unasked = (rows_for(candidates, trained.table, target) for target in ("kind", None))
    np.testing.assert_array_equal(asked.examples[0].targets, unasked.examples[0].targets)
    with pytest.raises(FailedPrecondition, match=r"--target kind, which .* trained for, or none\. Received: a"):
        rows_for(candidates, trained.table, "a")
    first, second = candidates
    provenance = replace(second.manifest.provenance, target="b")
    other = replace(second, manifest=replace(second.manifest, provenance=provenance))
    with pytest.raises(FailedPrecondition, match=r"same --target\. Received: signs/1 for kind, signs-fp16/1 for b"):
        rows_for([first, other], trained.table, "kind")


def test_rows_of_other_labels_are_refused_where_no_target_is_recorded(trained: Trained) -> None:
    candidates = [
        replace(
            each,
            manifest=replace(
                each.manifest, labels=("x", "y"), provenance=replace(each.manifest.provenance, target=None)
            ),
        )
        for each in select(trained.repository, ["signs", "signs-fp16"])
    ]
    with pytest.raises(FailedPrecondition, match=r"with the labels x, y\. Received: one with other, same"):
        rows_for(candidates, trained.table, "kind")


def test_rows_without_known_normal_ones_judge_no_detector(trained: Trained, tmp_path: Path) -> None:
    candidates = [
        replace(each, manifest=replace(each.manifest, task="anomaly_detection"))
        for each in select(trained.repository, ["signs", "signs-fp16"])
    ]
    with pytest.raises(FailedPrecondition, match="it says what is normal"):
        rows_for(candidates, write_table(tmp_path / "fresh.csv", seed=1), "kind")


def test_versions_whose_weights_file_is_gone_are_compared_all_the_same(trained: Trained, tmp_path: Path) -> None:
    for name in ("first", "second"):
        version = tmp_path / name / "1"
        shutil.copytree(trained.repository / "signs" / "1", version)
        manifest = Manifest.read(version)
        provenance = replace(manifest.provenance, options={"weights": "gone.weights.h5"})
        replace(manifest, family="vgg16", task="image_features", provenance=provenance).write(version)
    assert [each.pipeline.family for each in select(tmp_path, ["first", "second"])] == ["vgg16", "vgg16"]


def test_a_family_whose_features_are_judged_by_a_model_of_them_has_it_fitted_on_the_rows_of_training(
    trained: Trained, tmp_path: Path
) -> None:
    pipeline = find("rbm")
    for hidden in (2, 8):
        options = parse(pipeline.options, [f"hidden={hidden}", "epochs=2", "levels=4"])
        job = Job(pipeline, options, Source(trained.table, "kind"), f"rbm-{hidden}", tmp_path, tmp_path / "runs")
        train(job, Console(file=io.StringIO()))
    candidates = select(tmp_path, ["rbm-2", "rbm-8"])
    rows = rows_for(candidates, trained.table, None)
    measured = measure(candidates, rows.examples, 0)
    found = judge(candidates, [each.outputs for each in measured], rows.examples)
    assert (found.metric, found.resamples) == ("accuracy", 1000)
    for candidate, metrics in zip(candidates, found.metrics, strict=True):
        known = candidate.manifest.metrics
        assert metrics == pytest.approx({name: known[name] for name in ("accuracy", "impute_error")}, abs=1e-4)
    with pytest.raises(FailedPrecondition, match=r"for tabular_features features are judged by a model that is fitted"):
        rows_for(candidates, write_table(tmp_path / "fresh.csv", seed=1), None)


@pytest.mark.parametrize(
    ("versions", "error", "complaint"),
    [
        (["signs"], InvalidArgument, "two different versions at least.*Received: signs/1"),
        (["signs", "signs/1"], InvalidArgument, "Received: signs/1, signs/1"),
        (["signs", "sings"], ModelNotFound, "There are: regressor, signs, signs-fp16"),
        (["signs", "signs-fp16/9"], ModelNotFound, "There are: signs-fp16/1"),
        (["signs", "signs/latest"], ModelNotFound, "There are: signs/1"),
        (
            ["signs", "regressor"],
            FailedPrecondition,
            "same task. Received: signs/1 of classification and regressor/1 of regr",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(
    trained: Trained, tmp_path: Path, versions: list[str], error: type[CornetError], complaint: str
) -> None:
    shutil.copytree(trained.repository, tmp_path / "models")
    other = tmp_path / "models" / "regressor" / "1"
    shutil.copytree(trained.repository / "signs" / "1", other)
    manifest = Manifest.read(other)
    replace(manifest, task="regression").write(other)
    with pytest.raises(error, match=complaint):
        select(tmp_path / "models", versions)
