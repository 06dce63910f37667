from pathlib import Path

import pytest

from services.engine.repository import scan_model, scan_repository


def version(path: Path, name: str, file: str = "model.onnx") -> Path:
    (path / name).mkdir(parents=True)
    (path / name / file).touch()
    return path / name


def versions(path: Path) -> list[int]:
    found = scan_model(path)
    assert found is not None
    return sorted(found)


@pytest.mark.parametrize("file", ["model.onnx", "saved_model.pb", "manifest.json"])
def test_a_numbered_folder_with_a_model_or_a_manifest_is_a_version(tmp_path, file):
    version(tmp_path, "7", file)
    assert versions(tmp_path) == [7]


@pytest.mark.parametrize("name", [".tmp-2-41", "0", "-1", "1.5", "v1", "latest", "²", "9" * 30, "9" * 5000])
def test_other_names_are_not_versions(tmp_path, name):
    if len(name) < 255:
        version(tmp_path, name)
    version(tmp_path, "1")
    assert versions(tmp_path) == [1]


def test_leading_zeros_are_fine_and_of_two_names_the_last_counts(tmp_path):
    version(tmp_path, "00000123")
    last = version(tmp_path, "123")
    found = scan_model(tmp_path)
    assert found is not None
    assert found[123].path == last


def test_a_folder_that_is_still_empty_is_no_version(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").touch()
    assert versions(tmp_path) == []


def test_a_missing_folder_is_not_an_empty_one(tmp_path):
    assert scan_model(tmp_path / "gone") is None
    assert scan_model(tmp_path) == {}


def test_the_stamp_tells_a_repaired_version(tmp_path):
    path = version(tmp_path, "1")
    before = scan_model(tmp_path)
    (path / "model.onnx").write_bytes(b"more")
    assert scan_model(tmp_path) != before


def test_the_models_of_a_repository_are_its_folders_with_versions(tmp_path):
    version(tmp_path / "a", "1")
    version(tmp_path / ".hidden", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    assert scan_repository(tmp_path) == {"a": tmp_path / "a"}


def test_a_missing_repository_is_not_an_empty_one(tmp_path):
    assert scan_repository(tmp_path / "gone") is None
    assert scan_repository(tmp_path) == {}
