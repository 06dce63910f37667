"""Rows of a rare class that a machine has learnt and draws anew."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from services.errors import DataError, InvalidArgument
from training.datasets.tables import Table
from training.options import parse
from training.synthesis import SynthesisOptions, likeness, synthesize
from training.synthesize_command import register

QUICK = ("deterministic=false", "epochs=60", "sweeps=60")
RARE, COMMON = 60, 240


def two_classes(seed: int = 0) -> pd.DataFrame:
    """A rare class that lies on a line between two correlated numbers, with a whole number and a town of its own."""
    rng = np.random.default_rng(seed)
    size = np.concatenate([rng.normal(8, 1, RARE), rng.normal(5, 2, COMMON)])
    price = np.concatenate([3 * size[:RARE] + rng.normal(0, 0.3, RARE), 15 + rng.normal(0, 3, COMMON)])
    town = np.concatenate([rng.choice(["Ulm", "Bonn"], RARE, p=[0.8, 0.2]), rng.choice(["Kiel", "Bonn"], COMMON)])
    label = np.array(["rare"] * RARE + ["common"] * COMMON)
    rooms = rng.integers(1, 6, RARE + COMMON)
    return pd.DataFrame({"size": size, "label": label, "rooms": rooms, "town": town, "price": price})


@pytest.fixture(scope="module")
def table() -> Table:
    frame = two_classes()
    columns = {name: frame[name].to_numpy() for name in ("size", "rooms", "price")}
    columns = {name: values.astype(float) for name, values in columns.items()} | {
        "town": frame["town"].to_numpy(object)
    }
    return Table(columns, (frame["label"] == "rare").to_numpy(int), ("common", "rare"))


def options(**changes: object) -> SynthesisOptions:
    return parse(SynthesisOptions, [*QUICK, *(f"{name}={value}" for name, value in changes.items())])


@pytest.fixture(scope="module")
def drawn(table: Table) -> dict[str, np.ndarray]:
    return synthesize(table, "rare", rows=400, options=options())


def test_drawn_rows_are_like_the_class_s_own_and_not_its_copies(table: Table, drawn: dict[str, np.ndarray]) -> None:
    found = likeness(table, "rare", drawn)
    assert found.mean_shift < 0.3
    assert 0.7 < found.spread_ratio < 1.2
    assert found.correlation_shift < 0.25
    assert found.copies < 0.02
    assert np.corrcoef(drawn["size"], drawn["price"])[0, 1] > 0.6


def test_units_categories_and_whole_numbers_are_the_table_s(table: Table, drawn: dict[str, np.ndarray]) -> None:
    real = table.take(np.flatnonzero(table.target == 1)).columns
    assert set(drawn) == set(real)
    for name in ("size", "price", "rooms"):
        assert real[name].min() - 0.5 <= drawn[name].min()
        assert drawn[name].max() <= real[name].max() + 0.5
    assert drawn["rooms"].dtype.kind == "i"
    assert set(drawn["town"]) == {"Ulm", "Bonn"}  # never the other class's
    assert (drawn["town"] == "Ulm").mean() == pytest.approx(0.8, abs=0.15)


def test_the_same_seed_draws_the_same_rows(table: Table) -> None:
    again, other = (synthesize(table, "rare", rows=20, options=options(epochs=2, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(again["size"], other["size"])
    repeated = synthesize(table, "rare", rows=20, options=options(epochs=2))
    assert all(np.array_equal(repeated[name], again[name]) for name in again)


def test_drawn_rows_help_a_classifier_find_the_rare_class() -> None:
    """Breast cancer with 20 malignant rows left of 212: recall with and without the drawn rows."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    rng = np.random.default_rng(0)
    rare, common = (rng.permutation(np.flatnonzero(data.target == label)) for label in (0, 1))
    rows, held_out = np.concatenate([rare[:20], common[:250]]), np.concatenate([rare[20:], common[250:]])
    columns = {str(name): data.data[rows, i] for i, name in enumerate(data.feature_names)}
    learnt = Table(columns, data.target[rows], ("malignant", "benign"))
    drawn = synthesize(learnt, "malignant", rows=230, options=options(epochs=100))

    def recall(features: np.ndarray, targets: np.ndarray) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(features, targets)
        return float(recall_score(data.target[held_out], model.predict(data.data[held_out]), pos_label=0))

    alone = recall(data.data[rows], data.target[rows])
    more = np.concatenate([data.data[rows], np.stack([drawn[name] for name in columns], axis=1)])
    assert recall(more, np.concatenate([data.target[rows], np.zeros(230, int)])) >= alone + 0.03


@pytest.mark.parametrize(
    ("label", "rows", "message"),
    [
        ("other", None, "Expected a class out of common, rare. Received: 'other'"),
        ("rare", 5, "at least 10 rows of 'rare'"),
    ],
)
def test_a_class_that_cannot_be_learnt_is_refused(table: Table, label: str, rows: int | None, message: str) -> None:
    kept = np.concatenate([np.arange(RARE)[:rows], np.arange(RARE, RARE + COMMON)])
    with pytest.raises(DataError, match=message):
        synthesize(table.take(kept), label, rows=1, options=options())


@pytest.fixture
def run(tmp_path: Path):
    """`run(*arguments)`: the command on a CSV of the two classes; `out.csv` and its like are written beside it."""
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    two_classes().to_csv(tmp_path / "in.csv", index=False)
    settings = [word for setting in (*QUICK, "epochs=2") for word in ("--set", setting)]

    def call(*arguments: str, output: str = "out.csv", data: str = "in.csv"):
        given = [str(tmp_path / data), "--target", "label", "--rows", "7", "--output", str(tmp_path / output)]
        return CliRunner().invoke(app, ["synthesize", *given, *settings, *arguments])

    return call


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_the_file_has_the_columns_of_the_table(run, tmp_path: Path, output: str) -> None:
    done = run("--class", "rare", output=output)
    assert done.exit_code == 0, done.output
    written = pd.read_csv(tmp_path / output) if output.endswith("csv") else pd.read_parquet(tmp_path / output)
    assert list(written) == ["size", "label", "rooms", "town", "price"]
    assert written["label"].tolist() == ["rare"] * 7
    assert written["rooms"].dtype.kind == "i"
    assert "wrote 7 rows of rare" in done.output.replace("\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", output]


def test_a_file_that_is_there_is_kept_unless_told_otherwise(run, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    refused = run("--class", "rare")
    assert isinstance(refused.exception, InvalidArgument)
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert run("--class", "rare", "--overwrite").exit_code == 0


def test_another_kind_of_file_is_refused_before_anything_is_learnt(run) -> None:
    refused = run("--class", "rare", output="out.xlsx")
    assert "--output to end in .csv or .parquet" in str(refused.exception)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_learnt(run, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "Received: the folder" in str(run("--class", "unheard", "--overwrite", output="folder.csv").exception)
    refused = run("--class", "unheard", output="missing/out.csv")
    assert "Expected to be able to write" in str(refused.exception)


def test_a_column_that_is_left_out_may_hold_anything(run, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "in.csv")
    table.assign(note=[{"by": "hand"}] * len(table)).to_parquet(tmp_path / "in.parquet")
    done = run("--class", "rare", "--set", "drop=note", data="in.parquet")
    assert done.exit_code == 0, done.output
    assert list(pd.read_csv(tmp_path / "out.csv")) == ["size", "label", "rooms", "town", "price"]
