"""From a folder of pictures by class to a classifier on their features: two commands, and a third that uses it."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from services.batch import run as run_batch
from services.errors import DataError
from services.processing import load_processor
from services.testing_typed import write_family
from training.datasets.parquet import read_parquet
from training.datasets.tables import load_table
from training.options import parse
from training.pipeline import Source
from training.pipelines import find
from training.runner import Job, Outcome, train


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature extractor that answers the mean of each colour."""
    root = tmp_path_factory.mktemp("repository")
    write_family(root / "vgg16" / "1", "vgg16")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue pictures in a folder each, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, channel in (("poppies", 0), ("violets", 2)):
        (folder / name).mkdir()
        for index in range(30):
            pixels = random.integers(0, 120, (8, 8, 3), np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(folder / name / f"{index:02}.png")
    (folder / "violets" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def features(repository: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("features")
    run_batch("vgg16", photos, output, repository=repository, workers=0, shard_rows=16)
    return output


@pytest.fixture(scope="module")
def flowers(repository: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    pipeline = find("classifier")
    options = parse(pipeline.options, ["epochs=30", "units=8", "dropout=0", "learning_rate=0.03"])
    runs = tmp_path_factory.mktemp("runs")
    job = Job(pipeline, options, Source(features, "folder"), "flowers", repository, runs)
    return train(job, Console(file=io.StringIO()))


def test_the_classes_are_the_folders_and_the_columns_the_elements_of_the_features(flowers: Outcome) -> None:
    manifest = flowers.exported.manifest
    assert manifest.labels == ("poppies", "violets")
    assert manifest.processor is not None
    assert load_processor(flowers.exported.path, manifest.processor).names == ("features_0", "features_1", "features_2")
    assert flowers.metrics["accuracy"] == 1.0


def test_the_classifier_runs_over_the_features_of_other_pictures(
    flowers: Outcome, features: Path, repository: Path, tmp_path: Path
) -> None:
    assert flowers.exported.version == 1
    run_batch("flowers", features / "rows" / "*.parquet", tmp_path, repository=repository, key="key", workers=0)
    rows = pq.read_table(tmp_path / "rows").to_pylist()
    assert len(rows) == 60
    assert [row["label"] for row in rows] == [row["key"].partition("/")[0] for row in rows]


def test_a_vector_that_is_too_short_is_a_bad_record(flowers: Outcome, repository: Path, tmp_path: Path) -> None:
    assert flowers.exported.version == 1
    column = pa.array([[1.0, 2.0, 3.0], [1.0], None])
    pq.write_table(pa.table({"features": column}), tmp_path / "in.parquet")
    run_batch("flowers", tmp_path / "in.parquet", tmp_path / "out", repository=repository, workers=0)
    errors = {row["key"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()}
    assert "column 'features': expected a vector of at least 2 numbers. Received: 1 numbers" in errors["1"]
    assert "Received: none" in errors["2"]


def test_the_parts_of_a_job_are_one_table_whichever_folder_is_named(features: Path) -> None:
    assert len(list((features / "rows").iterdir())) > 1
    whole, rows = (load_table(Source(path, "folder"), "class") for path in (features, features / "rows"))
    assert len(whole.data) == len(rows.data) == 60
    assert whole.sha256 != ""


def test_a_job_that_is_not_done_is_refused(features: Path, tmp_path: Path) -> None:
    shutil.copytree(features / "rows", tmp_path / "rows")
    with pytest.raises(DataError, match=r"expected the output of a batch job that is done, with a summary\.json"):
        load_table(Source(tmp_path, "folder"), "class")
    assert len(load_table(Source(tmp_path / "rows", "folder"), "class").data) == 60


def test_without_a_target_the_folder_is_the_first_that_is_offered(features: Path) -> None:
    with pytest.raises(DataError, match="expected --target, one of folder, features_0"):
        load_table(Source(features), "class")


def test_keys_without_folders_give_no_column(repository: Path, photos: Path, tmp_path: Path) -> None:
    run_batch("vgg16", photos / "poppies", tmp_path, repository=repository, workers=0)
    assert list(read_parquet(tmp_path)) == ["features_0", "features_1", "features_2"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(**columns: pa.Array) -> Path:
        path = tmp_path / "table.parquet"
        pq.write_table(pa.table({"y": pa.array(["a", "b"] * 8), **columns}), path)
        return path

    return make


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0]] * 15 + [[1.0]], r"row 16, column 'v': expected a vector of 2 numbers, .* Found 1 numbers"),
        ([[1.0, 2.0]] * 3 + [None] * 13, r"row 4, column 'v': expected a vector of 2 numbers, .* Found none"),
        (pa.array([[]] * 16, pa.list_(pa.float32())), r"row 1, column 'v': expected a vector of 1 numbers"),
        ([["a"]] * 16, r"column 'v': expected numbers, texts or vectors of numbers. Found list"),
        ([[[1.0]]] * 16, r"column 'v': expected numbers, texts or vectors of numbers. Found list"),
        ([[1.0, float("inf")]] * 16, r"row 1, column 'v_1': expected a finite number"),
    ],
)
def test_what_is_no_column_of_vectors_is_refused_with_its_place(
    write: Callable[..., Path], column: list[object], message: str
) -> None:
    path = write(v=pa.array(column), x=pa.array(np.arange(16.0)))
    with pytest.raises(DataError, match=message):
        load_table(Source(path, "y"), "class")
    assert list(load_table(Source(path, "y"), "class", drop=("v",)).data.columns) == ["x"]


def test_elements_are_dropped_by_their_own_names(write: Callable[..., Path]) -> None:
    path = write(v=pa.array([[float(i), 1.0 - i] for i in range(16)]))
    assert list(load_table(Source(path, "y"), "class", drop=("v_0",)).data.columns) == ["v_1"]
    with pytest.raises(DataError, match=r"expected columns out of y, v_0, v_1\. Received 'v_2'"):
        load_table(Source(path, "y"), "class", drop=("v_2",))


def test_elements_that_never_vary_are_left_out_as_nobody_chose_them(write: Callable[..., Path]) -> None:
    path = write(v=pa.array([[float(i), 0.0] for i in range(16)]), x=pa.array(np.arange(16.0)))
    assert list(load_table(Source(path, "y"), "class").data.columns) == ["v_0", "x"]
    path = write(v=pa.array([[float(i), 0.0] for i in range(16)]), x=pa.array(np.zeros(16)))
    with pytest.raises(DataError, match="column 'x': expected values that vary"):
        load_table(Source(path, "y"), "class")
