"""One training run, top to bottom: load, split, encode, build, fit, wrap, evaluate, export, report."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from services.errors import FailedPrecondition
from services.files import check_folder
from services.processing import Processor
from services.tensors import DEFAULT_SIGNATURE
from training import options as option_values
from training.environment import import_keras, plain_options, provenance
from training.optimization import GradientOptions, gradient_options, schedule_callbacks
from training.pipeline import (
    Arrays,
    Baseline,
    CommonOptions,
    Examples,
    Loaded,
    Pipeline,
    ServingModel,
    Source,
    Trained,
)
from training.precision.options import VariantOptions
from training.precision.table import print_variants
from training.publishing import check_name
from training.report import RunReport, is_error, print_metrics, write_report
from training.runs import Identity, Run
from training.stages import print_stages, stage_results

if TYPE_CHECKING:
    from training.callbacks import Checkpoint
    from training.diagnosis.figures import Diagnosis
    from training.diagnosis.recorder import Recorder
    from training.exporter import Exported
    from training.precision.variants import Outcome as VariantOutcome


@dataclass(frozen=True)
class Job:
    """What to train and where the results go. `name` is the model's; `resume` continues its newest unfinished run.

    `diagnose` also looks into the network while it learns; what is learnt stays the same, bit for bit.
    """

    pipeline: Pipeline
    options: CommonOptions
    source: Source = dataclasses.field(default_factory=Source)
    name: str = ""
    repository: Path = Path("exported_models")
    runs: Path = Path("runs")
    resume: bool = False
    variants: VariantOptions = dataclasses.field(default_factory=VariantOptions)
    diagnose: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `history` has one entry per epoch; metrics are those of the served outputs on held-out rows."""

    run: Run
    exported: "Exported"
    metrics: Mapping[str, float]
    baseline: Baseline
    history: list[dict[str, float]]
    variants: "Sequence[VariantOutcome]" = ()
    diagnosis: "Diagnosis | None" = None


Parts = tuple[Loaded[Any], Processor, Examples, Examples, Examples]
"""What was loaded, the processor fitted on the training part, and the train, validation and test part it encoded."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C once a run has begun: everything up to the last full epoch is kept in `run`. `epochs` where it was fitting."""

    def __init__(self, run: Run, epochs: int | None = None) -> None:
        after = "" if epochs is None else f" after {epochs} epochs"
        super().__init__(f"Interrupted{after}; --resume continues {run.directory}.")
        self.run = run
        self.epochs = epochs


def train(job: Job, console: Console) -> Outcome:
    """Train, evaluate, export and report. Raises CornetError for what does not fit, Interrupted on Ctrl-C in a run.

    A variant that its gates refuse is in the outcome and in the report, and raises nothing: the float32 model is published.
    """
    job = dataclasses.replace(job, pipeline=job.pipeline.chosen(job.options))
    pipeline, options, name = job.pipeline, job.options, job.name or job.pipeline.family
    option_values.check(options)
    if job.diagnose:
        gradient_options(pipeline, options, "--diagnose")
    for published in (name, *(f"{name}-{precision}" for precision in job.variants.wanted)):
        check_name(published)
    check_folder(job.repository / name, f"the model repository {job.repository}")
    check_folder(job.runs / name, f"the folder of runs {job.runs}")
    weights = pipeline.base_weights(options)
    parts = encoded_parts(pipeline, job.source, options, console)
    loaded, given = parts[0], plain_options(options)
    identity = Identity(pipeline.family, name, given, loaded.name, loaded.sha256, job.source.target, weights)
    run = Run.resume(job.runs, identity) if job.resume else Run.start(job.runs, identity)
    with _telling_how_to_go_on(run):
        return _carry_out(job, run, parts, console)


@contextmanager
def _telling_how_to_go_on(run: Run) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(run) from None


def _carry_out(job: Job, run: Run, parts: Parts, console: Console) -> Outcome:
    """The run itself, from the first layer to the report."""
    pipeline, options, name = job.pipeline, job.options, run.identity.name
    loaded, processor, training, validation, test = parts
    rows = {"train": len(training), "validation": len(validation), "test": len(test)}
    import_keras(options.seed, deterministic=options.deterministic)
    model = pipeline.build(training, processor, options)
    checkpoint, seconds, diagnosis = _fit(job, run, model, training, validation, console)

    by_stage = {}
    for stage in sorted(range(len(checkpoint.histories)), key=lambda stage: stage == checkpoint.best_stage):
        checkpoint.use(model, stage)
        serving = pipeline.serving_model(model, training, validation, processor, options)
        trained = Trained(model, serving, training, validation, processor)
        test, outputs, metrics = judge(pipeline, trained, test, options)
        by_stage[stage] = metrics
    if isinstance(options, GradientOptions) and options.mixed_precision:
        serving = dataclasses.replace(serving, notes={**serving.notes, "trained_in": checkpoint.dtype})
    stages = stage_results([stage.name for stage in pipeline.stages(options)], checkpoint, by_stage)
    baseline = pipeline.baseline(training, test, options)

    from training.exporter import export

    origin = provenance(loaded, options, run.identity.base_weights, job.source.target)
    with console.status("exporting and comparing SavedModel and ONNX with Keras"):
        exported = export(
            serving,
            repository=job.repository,
            name=name,
            family=pipeline.family,
            task=pipeline.task,
            processor=processor,
            samples=test.serving_inputs,
            metrics=metrics,
            baseline=baseline.metrics,
            provenance=origin,
        )
    variants = _variants(job, exported, training, test, loaded.name, console)
    plots = pipeline.figures(outputs, test, serving, options)
    print_metrics(console, pipeline, metrics, baseline)
    print_variants(console, variants)
    print_stages(console, stages, pipeline.primary_metric)
    history = checkpoint.history
    report = RunReport(
        pipeline, options, rows, exported, history, seconds, metrics, baseline, plots, variants, stages, diagnosis
    )
    write_report(run.report, report)
    run.finish(
        metrics=dict(metrics),
        baseline=dataclasses.asdict(baseline),
        history=history,
        seconds=seconds,
        version=exported.version,
        stages=[dataclasses.asdict(stage) for stage in stages],
    )
    for version in (exported, *(variant.exported for variant in variants if variant.exported)):
        console.print(f"exported {version.path}", soft_wrap=True)
    console.print(f"report   {run.report}", soft_wrap=True)
    return Outcome(run, exported, metrics, baseline, history, variants, diagnosis)


def encoded_parts(pipeline: Pipeline, source: Source, options: CommonOptions, console: Console) -> Parts:
    """Load, split, fit the processor on the training part, encode all three with it, and say how many rows each has."""
    loaded = pipeline.load(source, options)
    split = pipeline.split(loaded.data, options)
    processor = pipeline.fit_processor(split.train, options)
    training = pipeline.examples(split.train, processor, options)
    validation = pipeline.examples(split.validation, processor, options)
    test = pipeline.examples(split.test, processor, options)
    rows = {"train": len(training), "validation": len(validation), "test": len(test)}
    counts = ", ".join(f"{count} rows to {part}" for part, count in rows.items())
    console.print(f"{pipeline.family} on {loaded.name}: {counts}", soft_wrap=True)
    return loaded, processor, training, validation, test


def _variants(
    job: Job, exported: "Exported", training: Examples, test: Examples, data: str, console: Console
) -> "list[VariantOutcome]":
    """The published model's variants, calibrated on training rows and judged on all held-out ones."""
    if not job.variants.wanted:
        return []
    from training.precision.evidence import Evidence
    from training.precision.variants import publish_variants

    pipeline = job.pipeline
    evidence = Evidence(
        calibration=training.serving_inputs if len(training) else None,
        calibration_source=f"training rows of {data}",
        held_out=test.serving_inputs,
        evaluate=lambda outputs: pipeline.evaluate(outputs, test, job.options),
        metric=pipeline.primary_metric,
        smaller_is_better=is_error(pipeline.primary_metric),
    )
    with console.status("other precisions") as status:
        return publish_variants(exported, job.variants, evidence, repository=job.repository, progress=status.update)


def judge(
    pipeline: Pipeline, trained: Trained, part: Examples, options: CommonOptions
) -> tuple[Examples, dict[str, np.ndarray], dict[str, float]]:
    """A part as the family equips it, the outputs that would be served for its rows, and all metrics that the family has.

    The outputs are those of `serving_default`, and of the signatures that the family asks further questions.
    """

    def ask(inputs: Arrays, signature: str = DEFAULT_SIGNATURE) -> dict[str, np.ndarray]:
        return predict(trained.serving, inputs, signature)

    part = pipeline.equip(ask, trained.train, part, options)
    outputs = ask(part.serving_inputs)
    for signature, inputs in pipeline.questions(part).items():
        outputs |= ask(inputs, signature)
    return part, outputs, pipeline.evaluate(outputs, part, options) | pipeline.examine(trained, part, options)


def predict(serving: ServingModel, inputs: Arrays, signature: str = DEFAULT_SIGNATURE) -> dict[str, np.ndarray]:
    """The named outputs of a signature of the serving model for all rows, computed in batches."""
    outputs: dict[str, np.ndarray] = serving.endpoints[signature].model.predict(
        dict(inputs), batch_size=max(serving.batching.max_batch_rows, 1), verbose=0
    )
    return outputs


def _fit(
    job: Job, run: Run, model: Any, training: Examples, validation: Examples, console: Console
) -> "tuple[Checkpoint, float, Diagnosis | None]":
    """Fit all stages, from the checkpoint where the run is resumed.

    Returns what the checkpoint holds, the seconds of fitting in all, and the diagnosis if one was asked for.
    """
    import keras

    from training.callbacks import Checkpoint, EpochProgress
    from training.mixed_precision import FLOAT32, computing_in, training_dtype

    pipeline, stages = job.pipeline, job.pipeline.stages(job.options)
    most = sum(stage.options.epochs for stage in stages)
    checkpoint = Checkpoint(run.checkpoint, job.options.patience)
    if run.resumed:
        checkpoint.read()
        console.print(f"resuming after epoch {len(checkpoint.history)} of at most {most}")
    checkpoint.dtype = training_dtype(job.options, checkpoint.dtype)
    done, before = len(checkpoint.history), checkpoint.seconds
    progress = EpochProgress(console, most, done)
    recorder = _recorder(job, run, done)
    try:
        with progress:
            for index in range(max(checkpoint.stage, 0), len(stages)):
                options = stages[index].options
                if index:
                    checkpoint.use(model, index - 1)
                    pipeline.begin(model, training, options)
                first = checkpoint.enter(model, index)
                if first >= options.epochs or checkpoint.exhausted:
                    continue
                name = stages[index].name if len(stages) > 1 else ""
                folder = run.tensorboard / name
                if recorder:
                    recorder.enter(name)
                tensorboard = keras.callbacks.TensorBoard(folder, write_graph=False)
                moving = schedule_callbacks(options, len(training), checkpoint.histories[index])
                # The checkpoint refuses a loss that is no number: the diagnosis notes that epoch before.
                callbacks = [*([recorder] if recorder else []), checkpoint, tensorboard, progress, *moving]
                with computing_in(model, checkpoint.dtype):
                    pipeline.fit(model, training, validation, options, callbacks, first)
    except KeyboardInterrupt:
        raise Interrupted(run, len(checkpoint.history)) from None
    except FailedPrecondition:
        _tell(console, recorder, run)
        raise
    seconds = checkpoint.seconds
    if checkpoint.history:
        stage = checkpoint.best_stage
        epoch = checkpoint.best_epoch(stage)
        where = f" of {stages[stage].name}" if len(stages) > 1 else ""
        together = f", {len(checkpoint.history)} in {seconds:.1f} s with those before the interruption" if done else ""
        console.print(
            f"trained {len(checkpoint.history) - done} epochs in {seconds - before:.1f} s"
            f"{f' in {checkpoint.dtype}' if checkpoint.dtype != FLOAT32 else ''}{together}; "
            f"best validation loss {checkpoint.histories[stage][epoch]['val_loss']:.4g} in epoch {epoch + 1}{where}"
        )
    _tell(console, recorder, run)
    return checkpoint, seconds, recorder.diagnosis if recorder else None


def _recorder(job: Job, run: Run, first: int) -> "Recorder | None":
    if not job.diagnose:
        return None
    from training.diagnosis.recorder import Recorder

    return Recorder(run.directory, batch_size=job.options.batch_size, seed=job.options.seed, first_epoch=first)


def _tell(console: Console, recorder: "Recorder | None", run: Run) -> None:
    """The findings on the terminal, and all of the diagnosis in the run's folder."""
    if recorder:
        from training.diagnosis.figures import write
        from training.diagnosis.words import print_findings

        write(run.directory, recorder.diagnosis)
        print_findings(console, recorder.diagnosis, run.directory)
