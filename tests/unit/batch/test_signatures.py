"""Jobs that run another signature of a model than serving_default."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services import testing
from services.batch import OutputDiffers, Summary
from services.batch.model import resolve
from services.errors import SignatureNotFound
from services.manifest import ONNX_FILE, Manifest


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"x": [1, 3], "values": [1, 3], "mask": [true, false]}\n{"x": [5, 7], "values": [5, 7], "mask": [true, true]}\n',
        encoding="utf-8",
    )
    return path


def test_a_signature_is_chosen_by_name(job: Callable[..., Summary], rows: Callable[[], Any], table: Path) -> None:
    job("signatures", table, signature="doubled")
    assert [row["y"] for row in rows()] == [[2.0, 6.0], [10.0, 14.0]]


def test_inputs_of_its_own_are_columns_of_their_names(
    job: Callable[..., Summary], rows: Callable[[], Any], table: Path
) -> None:
    job("signatures", table, signature="filled")
    assert [row["rows"] for row in rows()] == [[1.0, 9.0], [5.0, 7.0]]


def test_another_signature_is_another_job(job: Callable[..., Summary], table: Path) -> None:
    job("signatures", table)
    with pytest.raises(OutputDiffers, match="doubled"):
        job("signatures", table, signature="doubled")


def test_an_unknown_signature_names_those_that_there_are(job: Callable[..., Summary], table: Path) -> None:
    with pytest.raises(SignatureNotFound, match="serving_default, halved, doubled, filled"):
        job("signatures", table, signature="none")


def test_imputing_reads_the_table_s_own_columns_and_completes_empty_cells(
    job: Callable[..., Summary], rows: Callable[[], Any], tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("x,y\n1,\n,4\n2,3\n", encoding="utf-8")
    job("rbm", tmp_path / "in.csv", signature="impute")
    assert [row["rows"] for row in rows()] == [[1.0, 9.0], [9.0, 4.0], [2.0, 3.0]]


def test_a_model_without_the_default_signature_needs_no_model_onnx(tmp_path: Path) -> None:
    version = testing.write_signatures(tmp_path / "m" / "1")
    manifest = Manifest.read(version)
    (version / ONNX_FILE).unlink()
    doubled = {"doubled": manifest.signatures["doubled"]}
    replace(manifest, signatures=doubled, onnx_files={"doubled": "model-doubled.onnx"}).write(version)
    assert resolve(tmp_path, "m", "doubled").file == "model-doubled.onnx"
    with pytest.raises(SignatureNotFound, match="doubled"):
        resolve(tmp_path, "m")
