"""Differences between versions: what may be chance, and on which rows that is judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.manifest import Manifest
from training.anomaly.rows import AnomalyExamples
from training.comparison import judge as judging
from training.comparison.candidates import Candidate
from training.comparison.judge import judge, take
from training.forecasting import SeriesExamples
from training.pipeline import Examples
from training.pipelines import find

RANDOM = np.random.default_rng(0)
ROWS = 400


def candidate(family: str, title: str) -> Candidate:
    pipeline: Any = find(family)
    manifest = Manifest(title, family, pipeline.task, "", {})
    return Candidate(title, 1, Path(), manifest, pipeline, pipeline.options())


def answers(right: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities whose argmax is class 0 where `right`, else class 1."""
    return {"probabilities": np.stack([right * 0.8 + 0.1, 0.9 - right * 0.8], axis=1)}


def judged(*rights: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> judging.Judgement:
    monkeypatch.setattr(judging, "MOST_RESAMPLES", 120)
    examples = Examples({}, np.zeros(ROWS, np.int64), labels=("a", "b"))
    candidates = [candidate("cnn", f"m{index}") for index in range(len(rights))]
    return judge(candidates, [answers(right) for right in rights], [examples] * len(rights))


def test_a_large_difference_is_no_chance_and_a_small_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    best = np.arange(ROWS) >= 20
    near = best.copy()
    near[[50, 51]] = False
    near[3] = True
    far = np.arange(ROWS) >= 120
    result = judged(far, best, near, monkeypatch=monkeypatch)
    assert result.best == 1
    assert result.differences[1] is None
    first, _, third = result.differences
    assert first is not None
    assert first.value == pytest.approx(-0.25)
    assert -0.31 < first.low < -0.25 < first.high < -0.19
    assert not first.chance
    assert third is not None
    assert third.chance


def test_without_labels_what_there_is_decides() -> None:
    """An autoencoder's rows without anomalies have no ROC; the smaller reconstruction error is the better."""
    rows = AnomalyExamples({}, np.zeros(40, np.int64))
    outputs = [{"score": np.full(40, score), "is_anomaly": np.zeros(40, np.bool_)} for score in (2.0, 1.0)]
    result = judge([candidate("autoencoder", "a"), candidate("autoencoder", "b")], outputs, [rows, rows])
    assert (result.metric, result.best) == ("reconstruction_error", 1)


def test_rows_are_drawn_alike_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions that are wrong in the same rows, one in a few more: paired, the difference is certain."""
    best = np.arange(ROWS) % 2 == 0
    worse = best & (np.arange(ROWS) >= 12)
    difference = judged(best, worse, monkeypatch=monkeypatch).differences[1]
    assert difference is not None
    assert difference.high < 0


def test_a_series_is_drawn_in_stretches() -> None:
    examples = SeriesExamples({}, np.zeros((200, 7)))
    rows = judging._drawer(candidate("lstm", "m"), examples)()
    assert len(rows) == 200
    assert (np.diff(rows) == 1).mean() > 0.8
    plain = judging._drawer(candidate("cnn", "m"), Examples({}, np.zeros(200)))()
    assert (np.diff(plain) == 1).mean() < 0.2


def test_examples_are_taken_with_all_that_belongs_to_a_row() -> None:
    rows = SeriesExamples(
        {"window": np.arange(4.0)[:, None, None]},
        np.arange(4.0)[:, None],
        times=np.arange(4.0)[:, None],
        names=("a", "b"),
    )
    picked = take(rows, np.array([3, 3, 0]))
    assert isinstance(picked, SeriesExamples)
    assert picked.inputs["window"].ravel().tolist() == picked.times.ravel().tolist() == [3, 3, 0]
    assert picked.names == ("a", "b")
