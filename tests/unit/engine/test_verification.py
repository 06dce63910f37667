"""Listing a repository, and finding what is wrong with a version of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from services.engine.backend import OnnxBackend
from services.engine.verification import list_versions, select, verify
from services.errors import ModelNotFound, NotFound
from services.manifest import MANIFEST_FILE, SAMPLES_FILE, Manifest, ParityRecord, hash_files
from services.models_cli import models_app
from services.parity import write_samples
from services.testing import write_half_plus_two, write_mlp, write_signatures


def seal(directory: Path, manifest: Manifest | None = None) -> Manifest:
    """Write a manifest that fits the files as they are."""
    signatures = OnnxBackend(directory / "model.onnx").signatures
    manifest = manifest or Manifest(
        name=directory.parent.name,
        family="regressor",
        task="regression",
        created="2026-01-02T03:04:05+00:00",
        signatures=signatures,
        metrics={"rmse": 1.5, "r2": 0.9},
        baseline={"rmse": 3.0},
    )
    manifest = replace(manifest, files=hash_files(directory))
    manifest.write(directory)
    return manifest


def make(repository: Path, name: str = "mlp", version: int = 1) -> Path:
    """A version as an export leaves it: model, stored rows with answers, manifest."""
    directory = repository / name / str(version)
    write_mlp(directory)
    backend = OnnxBackend(directory / "model.onnx")
    (given,), (answer,) = backend.signatures["serving_default"].inputs, backend.signatures["serving_default"].outputs
    rows = {given.name: np.random.default_rng(0).standard_normal((40, given.shape[1])).astype(np.float32)}
    answers = backend.run("serving_default", rows, ())
    write_samples(directory, rows, answers)
    manifest = seal(directory)
    record = ParityRecord("onnx", answer.name, 40, 0.0, 0.0, 1e-5, 1e-4)
    seal(directory, replace(manifest, parity=(record,)))
    return directory


@pytest.fixture
def version(tmp_path):
    return make(tmp_path)


def test_a_version_as_it_was_exported_passes(version):
    result = verify(version)
    assert result.ok
    assert [(record.format, record.samples) for record in result.parity] == [("onnx", 40)]
    assert result.files == 2


@pytest.mark.parametrize("name", ["model.onnx", SAMPLES_FILE])
def test_a_corrupted_file_is_named(version, name):
    content = bytearray((version / name).read_bytes())
    content[len(content) // 2] ^= 1
    (version / name).write_bytes(content)
    (problem,) = verify(version).problems
    assert f"{name} has SHA-256" in problem


def test_a_missing_file_is_named(version):
    (version / "model.onnx").unlink()
    assert "model.onnx is missing" in verify(version).problems[0]


def test_a_model_that_answers_otherwise_is_found_even_with_fitting_hashes(version):
    manifest = Manifest.read(version)
    write_mlp(version, seed=1)
    seal(version, manifest)
    (problem,) = verify(version).problems
    assert "differently from Keras" in problem
    assert "max abs" in problem


def test_answers_are_held_to_the_recorded_tolerance(version):
    manifest = Manifest.read(version)
    write_mlp(version, seed=1)
    seal(version, replace(manifest, parity=(replace(manifest.parity[0], atol=1e6),)))
    assert verify(version).ok


def test_a_broken_manifest_is_a_problem_not_an_error(version):
    (version / MANIFEST_FILE).write_text("{")
    assert verify(version).problems[0].startswith("manifest.json")


def test_stored_rows_that_cannot_be_read_are_a_problem(version):
    manifest = Manifest.read(version)
    (version / SAMPLES_FILE).write_bytes(b"no archive")
    seal(version, manifest)
    assert SAMPLES_FILE in verify(version).problems[0]


def test_without_stored_rows_only_hashes_are_checked(version):
    manifest = Manifest.read(version)
    (version / SAMPLES_FILE).unlink()
    seal(version, manifest)
    result = verify(version)
    assert result.ok
    assert "hashes only" in result.notes[0]


def test_a_plain_onnx_model_is_only_loaded(tmp_path):
    write_half_plus_two(tmp_path / "plain" / "3")
    result = verify(tmp_path / "plain" / "3")
    assert (result.ok, result.files) == (True, 0)
    assert "no manifest" in result.notes[0]


def test_a_plain_file_that_is_no_model_is_a_problem(tmp_path):
    directory = tmp_path / "plain" / "3"
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"nonsense")
    assert "model.onnx" in verify(directory).problems[0]


def test_an_empty_version_is_a_problem(tmp_path):
    (tmp_path / "empty" / "1").mkdir(parents=True)
    assert "Expected model.onnx or saved_model.pb" in verify(tmp_path / "empty" / "1").problems[0]


def test_rows_are_listed_by_name_and_number(tmp_path):
    for version in (10, 9):
        make(tmp_path, version=version)
    write_half_plus_two(tmp_path / "half" / "1")
    assert [(row.name, row.version, row.status) for row in list_versions(tmp_path)] == [
        ("half", 1, "plain"),
        ("mlp", 9, "exported"),
        ("mlp", 10, "exported"),
    ]


def test_a_row_tells_what_the_manifest_says(tmp_path):
    directory = make(tmp_path)
    (row,) = list_versions(tmp_path)
    assert (row.family, row.task, row.formats, dict(row.metrics)) == (
        "regressor",
        "regression",
        ("onnx",),
        {"rmse": 1.5, "r2": 0.9},
    )
    assert row.size == sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_a_saved_model_is_listed_by_its_format(tmp_path):
    directory = tmp_path / "plain" / "1"
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"")
    assert [row.formats for row in list_versions(tmp_path)] == [("saved_model",)]


def test_what_is_no_version_is_not_listed(tmp_path):
    (tmp_path / "mlp" / ".tmp-2-99").mkdir(parents=True)
    (tmp_path / "mlp" / "notes").mkdir()
    (tmp_path / ".git" / "1").mkdir(parents=True)
    (tmp_path / "README.md").write_text("")
    assert list_versions(tmp_path) == []


def test_a_version_that_cannot_be_used_is_listed_with_the_reason(tmp_path):
    directory = make(tmp_path)
    (directory / MANIFEST_FILE).write_text("[]")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    empty, broken = list_versions(tmp_path)
    assert (empty.usable, broken.usable) == (False, False)
    assert "no model.onnx" in empty.status
    assert "expected an object" in broken.status


def test_a_repository_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(NotFound, match="Expected a folder"):
        list_versions(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("target", "versions"),
    [(None, ["a/1", "a/2", "b/1"]), ("a", ["a/1", "a/2"]), ("a/2", ["a/2"]), ("a/", ["a/1", "a/2"])],
)
def test_a_target_chooses_rows(tmp_path, target, versions):
    for name, version in (("a", 1), ("a", 2), ("b", 1)):
        write_half_plus_two(tmp_path / name / str(version))
    assert [f"{row.name}/{row.version}" for row in select(list_versions(tmp_path), target)] == versions


@pytest.mark.parametrize("target", ["c", "a/9", "a/x", ""])
def test_a_target_that_means_nothing_lists_what_there_is(tmp_path, target):
    write_half_plus_two(tmp_path / "a" / "1")
    with pytest.raises(ModelNotFound, match="out of a"):
        select(list_versions(tmp_path), target)


@pytest.fixture
def command():
    runner = CliRunner()
    return lambda *words: runner.invoke(models_app, [str(word) for word in words])


def test_the_table_shows_name_metric_baseline_and_size(command, tmp_path):
    make(tmp_path)
    output = command("--repository", tmp_path).output
    for word in ("mlp", "regressor", "rmse 1.5", "3", "onnx", "kB", "2026-01-02 03:04"):
        assert word in output


def test_an_empty_repository_says_so(command, tmp_path):
    assert "no models" in command("--repository", tmp_path).output


def test_the_list_comes_as_json(command, tmp_path):
    make(tmp_path)
    (row,) = json.loads(command("--repository", tmp_path, "--json").output)
    assert (row["name"], row["version"], row["usable"]) == ("mlp", 1, True)


def test_verifying_what_is_whole_exits_with_zero(command, version):
    done = command("verify", "mlp/1", "--repository", version.parent.parent)
    assert done.exit_code == 0
    assert "ok" in done.output
    assert "onnx on 40 rows" in done.output


def test_verifying_what_is_corrupt_exits_with_one_and_names_it(command, version):
    (version / "model.onnx").write_bytes(b"x")
    done = command("--repository", version.parent.parent, "verify")
    assert done.exit_code == 1
    assert "model.onnx has SHA-256" in done.output


def test_verdicts_come_as_json(command, version):
    (result,) = json.loads(command("verify", "--json", "--repository", version.parent.parent).output)
    assert (result["ok"], result["parity"][0]["format"]) == (True, "onnx")


def make_several(repository: Path, *, filled: float = 9.0) -> Path:
    """A version with several signatures, and rows stored for each of its functions."""
    directory = write_signatures(repository / "several" / "1")
    x, mask = np.array([[1, 3], [5, 7]], np.float32), np.array([[True, False], [True, True]])
    write_samples(directory, {"x": x}, {"y": x / 2 + 2})
    write_samples(directory, {"x": x}, {"y": 2 * x}, "assets/samples-doubled.npz")
    rows = np.where(mask, x, np.float32(filled))
    write_samples(directory, {"values": x, "mask": mask}, {"rows": rows}, "assets/samples-filled.npz")
    seal(directory, Manifest.read(directory))
    return directory


def test_every_signature_is_run_again(tmp_path):
    result = verify(make_several(tmp_path))
    assert result.ok, result.problems
    assert {(record.signature, record.output) for record in result.parity} == {
        ("serving_default", "y"),
        ("halved", "y"),
        ("doubled", "y"),
        ("filled", "rows"),
    }


def test_a_further_signature_that_answers_differently_is_found(tmp_path):
    result = verify(make_several(tmp_path, filled=8.0))
    assert not result.ok
    assert "rows" in result.problems[0]


def test_the_list_names_further_signatures(tmp_path):
    directory = make_several(tmp_path)
    assert list_versions(tmp_path)[0].signatures == ("serving_default", "halved", "doubled", "filled")
    printed = CliRunner().invoke(models_app, ["--repository", str(directory.parent.parent)]).output
    assert "halved, doubled, filled" in printed


def test_a_signature_without_rows_does_not_hide_the_others(tmp_path):
    directory = make_several(tmp_path)
    (directory / "assets" / "samples-doubled.npz").write_bytes(b"no archive")
    seal(directory, Manifest.read(directory))
    result = verify(directory)
    (problem,) = result.problems
    assert "Signature doubled: Expected assets/samples-doubled.npz to hold arrays" in problem
    assert [record.signature for record in result.parity] == ["serving_default", "halved", "filled"]


def test_a_version_without_the_default_signature_is_onnx_and_run_again(tmp_path):
    directory = make_several(tmp_path)
    manifest = Manifest.read(directory)
    (directory / "model.onnx").unlink()
    (directory / SAMPLES_FILE).unlink()
    further = {key: manifest.signatures[key] for key in ("doubled", "filled")}
    replace(manifest, signatures=further, files=hash_files(directory)).write(directory)
    (row,) = list_versions(tmp_path)
    assert (row.formats, row.usable) == (("onnx",), True)
    result = verify(directory)
    assert result.ok, result.problems
    assert [record.signature for record in result.parity] == ["doubled", "filled"]
