"""Studies: what a trial sees, what is recorded of it, and how an interrupted study goes on. Tiny networks, real trainings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import FailedPrecondition, InvalidArgument, NotFound
from training.options import parse
from training.pipeline import Source
from training.pipelines.regressor import Regressor
from training.runs import Identity
from training.tuning.report import write_report
from training.tuning.space import plain, space_of
from training.tuning.study import Plan, Pruner, Study, Trial

ROWS = 60


class Watched(Regressor):
    """A regressor that notes which rows were encoded, and breaks where a test says so."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.built: list[Any] = []
        self.fail: Any = None

    def examples(self, data: Any, processor: Any, options: Any) -> Any:
        self.encoded.append(len(data))
        return super().examples(data, processor, options)

    def build(self, train: Any, processor: Any, options: Any) -> Any:
        self.built.append(options)
        if self.fail is not None:
            self.fail(len(self.built), options)
        return super().build(train, processor, options)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "lines.csv"
    x = np.random.default_rng(0).normal(size=ROWS)
    rows = "\n".join(f"{value:.6f},{3 * value + 1:.6f}" for value in x)
    path.write_text(f"x,y\n{rows}\n", encoding="utf-8")
    return path


def plan(table: Path, pipeline: Watched, *searches: str, objective: str = "rmse", pruner: Pruner = Pruner.NONE) -> Plan:
    base = parse(pipeline.options, ["epochs=2", "units=4", "batch_size=16", "deterministic=false", "bins=0"])
    axes = space_of(base, searches or ["units=2..8", "learning_rate=1e-4..1e-2"])
    return Plan(pipeline, base, Source(table, "y"), axes, objective, True, pruner)


def identity(plan: Plan, **changes: Any) -> Identity:
    loaded = plan.pipeline.load(plan.source, plan.base)
    known = Identity("regressor", "lines", dict(plain(plan.axes)), loaded.name, loaded.sha256, "y")
    return replace(known, **changes)


def interrupt_at(count: int) -> Any:
    def fail(built: int, _: Any) -> None:
        if built == count:
            raise KeyboardInterrupt

    return fail


def test_trials_are_judged_on_validation_rows_and_the_first_has_the_options_as_they_are(
    table: Path, tmp_path: Path
) -> None:
    pipeline = Watched()
    wanted = plan(table, pipeline)
    study = Study.start(tmp_path, identity(wanted), wanted)
    trials = list(study.run(2))
    assert [trial.state for trial in trials] == ["done"] * 2
    assert trials[0].options == wanted.base
    assert trials[1].options != wanted.base
    assert set(pipeline.encoded) == {41, 7}  # of 60 rows 12 are held out for the test, and are not encoded
    assert study.best().value == min(trial.value for trial in trials if trial.value is not None)
    write_report(study)
    report = study.report.read_text(encoding="utf-8")
    for text in ("rmse of the options as they were", "units", "Values", "2 trials"):
        assert text in report


def test_an_interrupted_study_goes_on_with_the_trial_that_was_under_way(table: Path, tmp_path: Path) -> None:
    pipeline = Watched()
    pipeline.fail = interrupt_at(2)
    wanted = plan(table, pipeline)
    known = identity(wanted)
    with pytest.raises(KeyboardInterrupt):
        list(Study.start(tmp_path, known, wanted).run(2))

    (file,) = tmp_path.glob("lines/tune-*/trials.jsonl")
    with file.open("ab") as half:
        half.write(b'{"op_code": 5, "wor')
    resumed = Study.resume(tmp_path, known, wanted)
    ended = list(resumed.run(2))
    assert len(ended) == 1
    assert pipeline.built[2] == pipeline.built[1]
    assert [trial.state for trial in resumed.trials()] == ["done", "interrupted", "done"]
    assert len(resumed.finished()) == 2
    assert list(Study.resume(tmp_path, known, wanted).run(2)) == []


def test_a_trial_that_fails_is_recorded_and_does_not_end_the_study(table: Path, tmp_path: Path) -> None:
    def fail(built: int, _: Any) -> None:
        if built == 1:
            raise FailedPrecondition("Training diverged: too bold.")

    pipeline = Watched()
    pipeline.fail = fail
    wanted = plan(table, pipeline)
    study = Study.start(tmp_path, identity(wanted), wanted)
    assert [trial.state for trial in study.run(2)] == ["failed", "done"]
    assert study.trials()[0].error == "Training diverged: too bold."
    write_report(study)
    assert "too bold" in study.report.read_text(encoding="utf-8")


def test_a_study_whose_trials_all_fail_ends_with_the_reason(table: Path, tmp_path: Path) -> None:
    def fail(_: int, __: Any) -> None:
        raise ValueError("no such layer")

    pipeline = Watched()
    pipeline.fail = fail
    wanted = plan(table, pipeline)
    study = Study.start(tmp_path, identity(wanted), wanted)
    ended: list[Trial] = []
    with pytest.raises(FailedPrecondition, match="The last one failed: ValueError: no such layer"):
        ended.extend(study.run(50))
    assert len(pipeline.built) == 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"options": {"units": "2..16"}}, "units was '2..8x1..1:log' and is now '2..16'"),
        ({"data_sha256": "0" * 64}, "data_sha256 was"),
    ],
)
def test_other_ranges_or_data_are_not_mixed_into_a_study(
    table: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    wanted = plan(table, Watched())
    Study.start(tmp_path, identity(wanted), wanted)
    with pytest.raises(FailedPrecondition, match=complaint):
        Study.resume(tmp_path, identity(wanted, **changes), wanted)


def test_there_is_nothing_to_resume_before_the_first_study(table: Path, tmp_path: Path) -> None:
    wanted = plan(table, Watched())
    with pytest.raises(NotFound, match="expected a study of 'lines'"):
        Study.resume(tmp_path, identity(wanted), wanted)


def test_an_unknown_objective_lists_the_figures(table: Path, tmp_path: Path) -> None:
    wanted = plan(table, Watched(), objective="accuracy")
    with pytest.raises(InvalidArgument, match=r"rmse, mae, r2, val_loss.*Received: 'accuracy'"):
        list(Study.start(tmp_path, identity(wanted), wanted).run(1))


class Foretold(Watched):
    """A regressor whose losses are known before: a small step size stays far away, a large one comes near."""

    def fit(
        self, model: Any, train: Any, validation: Any, options: Any, callbacks: Any, initial_epoch: int = 0
    ) -> None:
        for epoch in range(initial_epoch, options.epochs):
            callbacks[0].on_epoch_end(epoch, {"val_loss": 1.0 if options.learning_rate > 1e-3 else 9.0})


def test_hopeless_trials_are_given_up_early(table: Path, tmp_path: Path) -> None:
    wanted = plan(table, Foretold(), "learning_rate=1e-7|1e-2", objective="val_loss", pruner=Pruner.MEDIAN)
    wanted = replace(wanted, base=replace(wanted.base, epochs=9, learning_rate=1e-2))
    study = Study.start(tmp_path, identity(wanted), wanted)
    trials = list(study.run(14))
    given_up = [trial for trial in trials if trial.state == "pruned"]
    assert given_up
    assert all(trial.epochs < 9 and trial.value is None for trial in given_up)
    assert study.best().value == 1.0
