"""A study: its folder, which of its trials are done, and how an interrupted one goes on.

runs/<name>/tune-<start in UTC>/
  study.json        what is tuned on what, over which ranges, by which figure
  trials.jsonl      every trial as it goes, appended by Optuna: what was killed at any moment is read back
  report.html       written after every trial that is done
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from services.errors import CornetError, DataError, FailedPrecondition, NotFound
from services.files import write_whole, writing
from training.pipeline import CommonOptions, Pipeline, Source
from training.runs import Identity
from training.tuning.space import Axis, options_at, parameters_of
from training.tuning.trial import Judged, objective_of, run_trial

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.json"
TRIALS_FILE = "trials.jsonl"
MOST_FAILURES = 5
"""After so many failures with no trial that succeeded the study ends: something else is wrong."""

State = Literal["done", "pruned", "failed", "interrupted", "waiting"]


class Pruner(StrEnum):
    """Which trials are given up early."""

    MEDIAN = "median"
    """Those whose loss is above the median of the others at the same epoch."""
    HYPERBAND = "hyperband"
    """Most, after a few epochs, and ever fewer of the rest."""
    NONE = "none"


_INTERRUPTED = "interrupted"
_ERROR = "error"


@dataclass(frozen=True)
class Plan:
    """What is tuned: one family on one source, from base options over some axes, judged by `objective`."""

    pipeline: Pipeline
    base: CommonOptions
    source: Source
    axes: tuple[Axis, ...]
    objective: str
    smaller_is_better: bool
    pruner: Pruner = Pruner.MEDIAN


@dataclass(frozen=True)
class Trial:
    """One trial as people see it. `value` is the objective, `error` why it failed."""

    number: int
    state: State
    options: CommonOptions | None
    value: float | None
    metrics: Mapping[str, float]
    epochs: int
    seconds: float
    error: str = ""


class Study:
    """Runs trials until as many as asked for are finished, each recorded as soon as it ends.

        study = Study.start(Path("runs"), identity, plan)
        for trial in study.run(20):
            print(trial.number, trial.value)
        study.best().options

    Interrupted trials (Ctrl-C, kill -9) are run again with the options they had, by whoever resumes.
    """

    def __init__(self, directory: Path, identity: Identity, plan: Plan) -> None:
        self.directory = directory
        self.identity = identity
        self.plan = plan
        self._study = self._open()

    @classmethod
    def start(cls, root: Path, identity: Identity, plan: Plan) -> Self:
        """A fresh study below `root`; the base options are its first trial where they lie in the space."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        directory = root / identity.name / f"tune-{stamp}"
        with writing(f"the folder of studies {root}"):
            directory.mkdir(parents=True)
        study = cls(directory, identity, plan)
        first = parameters_of(plan.base, plan.axes)
        if first is not None:
            study._study.enqueue_trial(first)
        write_whole(directory / STUDY_FILE, json.dumps({"identity": asdict(identity)}, indent=2) + "\n")
        return study

    @classmethod
    def resume(cls, root: Path, identity: Identity, plan: Plan) -> Self:
        """The newest study of that name. Raises NotFound, or FailedPrecondition where it is of something else."""
        for directory in sorted((root / identity.name).glob("tune-*/"), reverse=True):
            known = _identity(directory / STUDY_FILE)
            if known is None:
                continue
            differences = identity.differences(known)
            if differences:
                raise FailedPrecondition(
                    f"Cannot resume {directory}: expected the options, ranges, data and weights it was started with. "
                    f"Received: {'; '.join(differences)}. Leave --resume out to start afresh."
                )
            study = cls(directory, identity, plan)
            study._repeat_interrupted()
            return study
        raise NotFound(f"Nothing to resume: expected a study of {identity.name!r} below {root}. Received: none.")

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    def trials(self) -> list[Trial]:
        """Every trial so far, those that were interrupted or wait for their turn included."""
        return [self._trial(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def finished(self) -> list[Trial]:
        """The trials that count: done, pruned or failed."""
        return [trial for trial in self.trials() if trial.state in ("done", "pruned", "failed")]

    def best(self) -> Trial:
        """The done trial of the best figure, the earliest of equal ones. Raises FailedPrecondition where none is done."""
        return self.ranked()[0]

    def ranked(self) -> list[Trial]:
        """The done trials, the best first. Raises FailedPrecondition where there is none."""
        done = [trial for trial in self.trials() if trial.state == "done"]
        if not done:
            reasons = [trial.error for trial in self.trials() if trial.error]
            last = f" The last one failed: {reasons[-1]}" if reasons else ""
            raise FailedPrecondition(f"Expected one trial at least that ends well. Received: none.{last}")
        sign = 1 if self.plan.smaller_is_better else -1
        return sorted(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    def run(self, trials: int) -> Iterator[Trial]:
        """Yield each trial as it ends, until `trials` are finished. Raises FailedPrecondition where all of them fail."""
        while len(finished := self.finished()) < trials:
            if len(finished) >= MOST_FAILURES and all(trial.state == "failed" for trial in finished):
                self.ranked()
            yield self._next()

    def importances(self) -> dict[str, float]:
        """Share of the objective's variance by searched parameter (fANOVA); nothing where too few trials are done."""
        import optuna

        if len([trial for trial in self.trials() if trial.state == "done"]) < MOST_FAILURES:
            return {}
        with _quiet():
            try:
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))
            except (ValueError, RuntimeError):  # every trial came to the same figure
                return {}

    def _next(self) -> Trial:
        import optuna

        plan = self.plan
        sign = 1 if plan.smaller_is_better else -1
        with _quiet(), writing(f"the study {self.directory}"):
            asked = self._study.ask()

            def tell(epoch: int, best_loss: float) -> None:
                asked.report(sign * best_loss, epoch)
                if asked.should_prune():
                    raise optuna.TrialPruned

            try:
                options = options_at(plan.base, plan.axes, asked)
                judged = run_trial(plan.pipeline, options, plan.source, self.identity.data_sha256, tell)
            except optuna.TrialPruned:
                self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            except Exception as error:  # noqa: BLE001  # recorded: a trial that fails does not end the study
                reason = str(error) if isinstance(error, CornetError) else f"{type(error).__name__}: {error}"
                asked.set_user_attr(_ERROR, reason.splitlines()[0][:500] if reason else type(error).__name__)
                self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                asked.set_user_attr("judged", asdict(judged))
                self._study.tell(asked, objective_of(judged, plan.objective))
        return self._trial(self._study.get_trials(deepcopy=False)[asked.number])

    def _trial(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        judged = Judged(**frozen.user_attrs["judged"]) if "judged" in frozen.user_attrs else Judged({}, 0, 0.0)
        state: State = {"COMPLETE": "done", "PRUNED": "pruned", "WAITING": "waiting"}.get(frozen.state.name, "failed")  # type: ignore[assignment]
        if frozen.user_attrs.get(_INTERRUPTED) or frozen.state.name == "RUNNING":
            state = "interrupted"
        seconds = judged.seconds or (frozen.duration.total_seconds() if frozen.duration else 0.0)
        return Trial(
            frozen.number,
            state,
            self._options(frozen),
            frozen.value if state == "done" else None,
            judged.metrics,
            judged.epochs or len(frozen.intermediate_values),
            seconds,
            frozen.user_attrs.get(_ERROR, ""),
        )

    def _options(self, frozen: "optuna.trial.FrozenTrial") -> CommonOptions | None:
        import optuna

        try:
            return options_at(self.plan.base, self.plan.axes, optuna.trial.FixedTrial(frozen.params))
        except (ValueError, CornetError):  # it ended before all was suggested, or its options contradict each other
            return None

    def _repeat_interrupted(self) -> None:
        """Line up every trial that was under way again, and close the old entry."""
        import optuna

        for frozen in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            trial = optuna.trial.Trial(self._study, frozen._trial_id)  # noqa: SLF001  # Optuna has no public way
            trial.set_user_attr(_INTERRUPTED, True)
            self._study.enqueue_trial(frozen.params)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _open(self) -> "optuna.Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        plan = self.plan
        file = self.directory / TRIALS_FILE
        with _quiet(), writing(f"the study {self.directory}"):
            _cut_half_entry(file)
            storage = JournalStorage(JournalFileBackend(str(file)))
            pruners: dict[Pruner, optuna.pruners.BasePruner] = {
                Pruner.MEDIAN: optuna.pruners.MedianPruner(
                    n_startup_trials=5, n_warmup_steps=max(1, plan.base.epochs // 20)
                ),
                Pruner.HYPERBAND: optuna.pruners.HyperbandPruner(
                    max_resource=sum(stage.options.epochs for stage in plan.pipeline.stages(plan.base))
                ),
                Pruner.NONE: optuna.pruners.NopPruner(),
            }
            study = optuna.create_study(
                storage=storage,
                study_name="cornet",
                load_if_exists=True,
                direction="minimize" if plan.smaller_is_better else "maximize",
                pruner=pruners[plan.pruner],
            )
            # A seed that moves on with the trials: one that is resumed does not draw the same points again.
            drawn = len(study.get_trials(deepcopy=False))
            study.sampler = optuna.samplers.TPESampler(seed=plan.base.seed + drawn)
        return study


def _identity(path: Path) -> Identity | None:
    """What a study is of; None where the folder holds none. Raises DataError where it is not JSON."""
    try:
        return Identity(**json.loads(path.read_bytes())["identity"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the JSON record of a study. Received: {error}.") from error


def _cut_half_entry(path: Path) -> None:
    """Take off a last line that was not written to its end, as on a full disk: Optuna would read no further than it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna warns of what is new in it; none of that is about the user's study."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
