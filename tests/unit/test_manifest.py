"""What manifest.json holds, and what is refused."""

import json
from dataclasses import asdict, replace

import pytest

from services.errors import DataLoss, ManifestError
from services.manifest import (
    MANIFEST_FILE,
    BatchingHints,
    LatencyRecord,
    Manifest,
    ParityRecord,
    ProcessorSpec,
    Provenance,
    Variant,
    hash_files,
    sha256,
    verify_files,
)
from services.tensors import BY_NAME, Signature, TensorSpec

FULL = Manifest(
    name="classifier",
    family="classifier",
    task="classification",
    created="2026-01-02T03:04:05+00:00",
    signatures={
        "serving_default": Signature(
            (TensorSpec("features", BY_NAME["float32"], (-1, 30)),),
            (TensorSpec("probabilities", BY_NAME["float32"], (-1, 2)),),
        )
    },
    processor=ProcessorSpec("tabular", {"columns": ["größe"]}, ("assets/columns.json",)),
    labels=("malignant", "benign"),
    batching=BatchingHints(32, 100),
    metrics={"accuracy": 0.98},
    baseline={"accuracy": 0.63},
    parity=(ParityRecord("onnx", "probabilities", 114, 1e-7, 2e-7, 1e-5, 1e-4),),
    provenance=Provenance("abc", 0, "data", "0" * 64, {"keras": "3"}, "", {"epochs": 3}),
    files={"model.onnx": "a" * 64},
)


def changed(**members):
    return json.loads(json.dumps(FULL.to_json())) | members


def test_what_is_written_is_read_again(tmp_path):
    FULL.write(tmp_path)
    assert Manifest.read(tmp_path) == FULL


INT8 = replace(
    FULL,
    name="classifier-int8",
    precision="int8",
    parity=(ParityRecord("onnx", "probabilities", 114, 0.02, 0.0, 0.0, 0.0, 0.99, 0.01, 0.1, 0.95),),
    variant=Variant(
        "classifier",
        3,
        "b" * 64,
        "static",
        {"Conv": 2},
        {"MatMul": 1},
        512,
        "training rows",
        900,
        300,
        "accuracy",
        0.98,
        0.97,
        0.01,
        (LatencyRecord(1, 10.0, 12.0), LatencyRecord(64, 90.0, 70.0)),
    ),
)


def test_a_variant_is_read_again(tmp_path):
    INT8.write(tmp_path)
    assert Manifest.read(tmp_path) == INT8


def test_a_manifest_that_does_not_say_is_of_fp32():
    value = changed()
    del value["precision"], value["variant"]
    assert Manifest.from_json(value) == FULL


def test_a_target_is_written_only_where_there_is_one():
    provenance = replace(FULL.provenance, target="price")
    written = changed(provenance=provenance.to_json())
    assert written["provenance"]["target"] == "price"
    assert Manifest.from_json(written).provenance == provenance
    assert "target" not in changed()["provenance"]


def test_words_stay_readable_in_the_file(tmp_path):
    FULL.write(tmp_path)
    assert "größe" in (tmp_path / MANIFEST_FILE).read_text(encoding="utf-8")


def test_a_missing_manifest_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(ManifestError):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"schema_version": 99}, "schema_version: expected 1 or 2. Received: 99"),
        ({"schema_version": True}, "schema_version"),
        ({"name": 3}, "manifest.name"),
        ({"signatures": {}}, "at least one signature"),
        ({"signatures": {"a": {"inputs": []}}}, "signatures.a.outputs"),
        ({"labels": [1]}, "manifest.labels"),
        ({"batching": {"rows": 3}}, "batching: expected only"),
        ({"parity": [{"format": "onnx"}]}, r"parity\[0\]"),
        ({"provenance": []}, "provenance"),
        ({"processor": {"kind": "text", "options": {}, "files": ["../secret"]}}, "processor.files"),
        ({"processor": {"kind": "text", "options": {}, "files": ["/etc/passwd"]}}, "processor.files"),
        ({"precision": 16}, "manifest.precision"),
        ({"variant": []}, "manifest.variant"),
        ({"variant": {"source": "x"}}, "manifest.variant"),
        ({"variant": {**asdict(INT8.variant), "latency": [{"rows": 1}]}}, r"manifest.variant.latency\[0\]"),
        ({"processor": {"kind": "text", "options": {}, "files": ["./assets/words.json"]}}, "processor.files"),
        ({"files": {"../x": "0" * 64}}, "manifest.files"),
        ({"files": {"assets//x": "0" * 64}}, "manifest.files"),
        ({"files": {"model.onnx": "short"}}, "SHA-256"),
    ],
)
def test_a_wrong_member_is_named(members, place):
    with pytest.raises(ManifestError, match=place):
        Manifest.from_json(changed(**members))


@pytest.mark.parametrize("member", ["name", "family", "task", "created", "signatures", "labels", "metrics", "files"])
def test_a_missing_member_is_named(member):
    value = changed()
    del value[member]
    with pytest.raises(ManifestError, match=member):
        Manifest.from_json(value)


@pytest.fixture
def version(tmp_path):
    """A directory of two files, and a manifest that knows them."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "a.json").write_bytes(b"{}")
    manifest = Manifest.from_json(changed(files=hash_files(tmp_path)))
    manifest.write(tmp_path)
    return tmp_path, manifest


def test_files_as_they_were_written_pass(version):
    directory, manifest = version
    assert manifest.files["assets/a.json"] == sha256(directory / "assets" / "a.json")
    verify_files(directory, manifest)


def test_a_changed_a_missing_and_a_foreign_file_are_all_named(version):
    directory, manifest = version
    (directory / "model.onnx").write_bytes(b"other")
    (directory / "assets" / "a.json").unlink()
    (directory / "extra").write_bytes(b"")
    with pytest.raises(DataLoss) as refusal:
        verify_files(directory, manifest)
    for words in ("model.onnx has SHA-256", "assets/a.json is missing", "extra is not in the manifest"):
        assert words in str(refusal.value)


DOUBLED = Signature((TensorSpec("x", BY_NAME["float32"], (-1, 2)),), (TensorSpec("y", BY_NAME["float32"], (-1, 2)),))
SEVERAL = replace(
    FULL,
    signatures=FULL.signatures | {"again": FULL.signatures["serving_default"], "doubled": DOUBLED},
    onnx_files={"doubled": "model-doubled.onnx"},
    files=FULL.files | {"model-doubled.onnx": "c" * 64},
    parity=(*FULL.parity, replace(FULL.parity[0], output="y", signature="doubled")),
)


def test_further_signatures_are_read_again(tmp_path):
    SEVERAL.write(tmp_path)
    assert Manifest.read(tmp_path) == SEVERAL
    assert SEVERAL.functions == {"model.onnx": "serving_default", "model-doubled.onnx": "doubled"}
    assert [SEVERAL.onnx_file(key) for key in SEVERAL.signatures] == ["model.onnx", "model.onnx", "model-doubled.onnx"]


def test_a_single_signature_is_written_as_servers_without_others_read_it():
    assert (FULL.to_json()["schema_version"], SEVERAL.to_json()["schema_version"]) == (1, 2)
    assert "signature" not in FULL.to_json()["parity"][0]
    assert "onnx" not in FULL.to_json()["signatures"]["serving_default"]


@pytest.mark.parametrize("name", ["../other/1/model.onnx", "/model.onnx", "", 7])
def test_an_onnx_file_outside_the_version_is_refused(name):
    value = json.loads(json.dumps(SEVERAL.to_json()))
    value["signatures"]["doubled"]["onnx"] = name
    with pytest.raises(ManifestError, match=r"manifest.signatures.doubled.onnx"):
        Manifest.from_json(value)


@pytest.mark.parametrize(
    "name", ["./model-doubled.onnx", "a//b.onnx", "a/./b.onnx", "model-doubled.onnx/", ".", "model\0.onnx"]
)
def test_a_second_spelling_of_a_path_is_refused(name):
    value = json.loads(json.dumps(SEVERAL.to_json()))
    value["signatures"]["doubled"]["onnx"] = name
    with pytest.raises(
        ManifestError, match=r"manifest.signatures.doubled.onnx: expected a path .* in its shortest form"
    ):
        Manifest.from_json(value)


def test_an_onnx_file_without_a_hash_is_refused():
    value = json.loads(json.dumps(SEVERAL.to_json()))
    del value["files"]["model-doubled.onnx"]
    with pytest.raises(ManifestError, match=r"manifest.signatures.doubled.onnx: expected a file with a hash"):
        Manifest.from_json(value)
