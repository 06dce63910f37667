"""Make, prove and publish a float32 version's variants in other precisions.

    outcomes = publish_variants(source, options, evidence, repository=Path("exported_models"))
    outcomes[0].exported      # exported_models/classifier-int8/1, or None with `refusal`

A variant is the model `<name>-<precision>`: same tensors, same types at its ends, other files. It holds ONNX, assets, the
stored rows with the float32 answers, and a manifest that says how it was made and what it came to; no SavedModel, as
TensorFlow has no form of it. It is published when its own gates pass (`judge`), and not at all otherwise. All signatures
are converted and held to the float32 ones; metric and times are those of `serving_default`.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from services.errors import CornetError, FailedPrecondition, ParityError
from services.files import writing
from services.manifest import (
    ASSETS_DIRECTORY,
    FP32,
    ONNX_FILE,
    LatencyRecord,
    Manifest,
    ParityRecord,
    Variant,
    hash_files,
    samples_file_of,
    sha256,
)
from services.parity import read_samples
from services.processing import processor_type
from services.tensors import DEFAULT_SIGNATURE
from training.cases import Run
from training.exporter import Exported
from training.pipeline import Arrays
from training.precision import judge
from training.precision.evidence import Evidence
from training.precision.float16 import to_float16
from training.precision.int8 import calibration_rows, method_for, to_int8
from training.precision.options import Precision, Quantization, VariantOptions
from training.publishing import Staging


@dataclass(frozen=True)
class Outcome:
    """What became of one variant: `exported`, or why it was refused. Figures are there as far as they were taken."""

    precision: Precision
    name: str
    exported: Exported | None = None
    refusal: str = ""
    variant: Variant | None = None
    parity: tuple[ParityRecord, ...] = ()


def publish_variants(
    source: Exported,
    options: VariantOptions,
    evidence: Evidence,
    *,
    repository: Path,
    progress: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Publish what passes of `options.precisions`, each as the next version of `<name>-<precision>`.

    A variant that cannot be made, or that a gate refuses, is an outcome and no error; nothing of it is in the repository.
    Raises FailedPrecondition where `source` is a variant itself, and what `training.publishing` raises where the repository
    cannot be written.
    """
    if source.manifest.precision != FP32:
        raise FailedPrecondition(
            f"Expected a float32 version to make variants of. Received: {source.manifest.name}, which is "
            f"{source.manifest.precision}."
        )
    outcomes = []
    for precision in options.wanted:
        name = f"{source.manifest.name}-{precision}"
        if progress:
            progress(name)
        outcomes.append(_publish(_Work(source, precision, name, options, evidence), repository))
    return outcomes


def check_published(outcomes: Sequence[Outcome]) -> None:
    """Raises ParityError that names every variant which was refused."""
    refused = [f"{outcome.name}: {outcome.refusal}" for outcome in outcomes if outcome.exported is None]
    if refused:
        raise ParityError(f"Not published: {' '.join(refused)} The float32 model is.")


@dataclass(frozen=True)
class _Work:
    source: Exported
    precision: Precision
    name: str
    options: VariantOptions
    evidence: Evidence


def _publish(work: _Work, repository: Path) -> Outcome:
    refused = Outcome(work.precision, work.name)
    with tempfile.TemporaryDirectory(prefix="cornet-") as folder:
        converted = Path(folder)
        try:
            manifest = _prove(work, _convert(work, converted), converted)
        except _Refused as refusal:
            return replace(refused, refusal=str(refusal), variant=refusal.variant, parity=refusal.parity)
        except CornetError as error:
            return replace(refused, refusal=str(error))
        with Staging(repository, work.name) as staging, writing(f"version of {work.name} in {repository}"):
            for file in manifest.functions:
                shutil.copyfile(converted / file, staging.path / file)
            _copy_assets(work.source, staging.path)
            manifest = replace(manifest, files=hash_files(staging.path))
            manifest.write(staging.path)
            staging.sync()
            version, path = staging.publish()
    exported = Exported(version, path, manifest)
    return Outcome(work.precision, work.name, exported, "", manifest.variant, manifest.parity)


class _Refused(CornetError):
    """A gate's refusal, with the figures that led to it."""

    def __init__(self, reason: str, variant: Variant, parity: tuple[ParityRecord, ...]) -> None:
        super().__init__(reason)
        self.variant = variant
        self.parity = parity


def _convert(work: _Work, target: Path) -> Variant:
    """Write the converted files, and say how they were made: counts and sizes are those of all of them."""
    made = [_convert_file(work, target, file) for file in work.source.manifest.functions]
    converted, kept = (sum((Counter(getattr(one, name)) for one in made), Counter()) for name in ("converted", "kept"))
    return replace(
        made[0],  # that of model.onnx, which comes first
        converted=dict(sorted(converted.items())),
        kept=dict(sorted(kept.items())),
        source_bytes=sum(one.source_bytes for one in made),
        bytes=sum(one.bytes for one in made),
    )


def _convert_file(work: _Work, folder: Path, file: str) -> Variant:
    """Write one converted file. Raises FailedPrecondition where there is nothing in it to convert."""
    import onnx

    source, target = work.source.path / file, folder / file
    proto = onnx.load(source)
    rows, origin = 0, ""
    converted: Counter[str]
    if work.precision is Precision.FP16:
        method = "float16"
        converted, kept = to_float16(proto)
        target.write_bytes(proto.SerializeToString())
    else:
        chosen = method_for(proto, work.options.quantization)
        method = str(chosen)
        calibration = None
        if chosen is Quantization.STATIC and work.evidence.calibration is not None:
            calibration = calibration_rows(_inputs_of(work, file))
            rows, origin = len(next(iter(calibration.values()), ())), work.evidence.calibration_source
        converted, kept = to_int8(source, target, chosen, calibration)
    return Variant(
        source=work.source.manifest.name,
        source_version=work.source.version,
        source_sha256=sha256(source),
        method=method,
        converted=dict(sorted(converted.items())),
        kept=dict(sorted(kept.items())),
        calibration_rows=rows,
        calibration_source=origin,
        source_bytes=source.stat().st_size,
        bytes=target.stat().st_size,
        most_loss=work.options.most_loss,
    )


def _inputs_of(work: _Work, file: str) -> Arrays:
    """The calibration rows of a function's inputs. Raises FailedPrecondition where it has other inputs."""
    manifest, rows = work.source.manifest, work.evidence.calibration or {}
    key = manifest.functions[file]
    wanted = [spec.name for spec in manifest.signatures[key].inputs]
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise FailedPrecondition(
            f"Signature {key}: expected calibration rows of {', '.join(wanted)}. Received none of {', '.join(missing)}; "
            "--quantization dynamic needs none."
        )
    return {name: rows[name] for name in wanted}


def _prove(work: _Work, variant: Variant, folder: Path) -> Manifest:
    """The manifest of a variant that passed every gate. Raises _Refused with all figures where one does not."""
    manifest = work.source.manifest
    batch_rows = max(manifest.batching.max_batch_rows, 1)
    reasons = []
    parity: tuple[ParityRecord, ...] = ()
    for file, key in manifest.functions.items():
        try:
            parity += _check_function(work, folder, file, key)
        except CornetError as error:
            reasons.append(str(error) if key == DEFAULT_SIGNATURE else f"Signature {key}: {error}")
    samples, _ = read_samples(work.source.path)
    with judge.runner(work.source.path / ONNX_FILE) as source, judge.runner(folder / ONNX_FILE) as run:
        metrics: dict[str, float] = {}
        try:
            metrics, variant = _metrics(work.evidence, variant, source, run, batch_rows)
            _check_metric(work.evidence, variant)
        except CornetError as error:
            reasons.append(str(error))
        latency: tuple[LatencyRecord, ...] = judge.latencies(source, run, samples, (1, batch_rows))
    variant = replace(variant, latency=latency)
    if reasons:
        raise _Refused(" ".join(reasons), variant, parity)
    return replace(
        manifest,
        name=work.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=metrics,
        baseline=manifest.baseline if metrics else {},
        parity=parity,
        precision=str(work.precision),
        variant=variant,
    )


def _check_function(work: _Work, folder: Path, file: str, key: str) -> tuple[ParityRecord, ...]:
    """A file's answers to the stored rows of its function, for every signature that it is. Raises ParityError."""
    manifest = work.source.manifest
    samples, _ = read_samples(work.source.path, samples_file_of(file))
    padding = manifest.processor is not None and processor_type(manifest.processor).pads
    with judge.runner(work.source.path / file) as source, judge.runner(folder / file) as run:
        found = judge.check(run, source, manifest.signatures[key], samples, work.precision, padding=padding)
    names = [name for name in manifest.signatures if manifest.onnx_file(name) == file]
    return tuple(replace(record, signature=name) for name in names for record in found)


def _metrics(
    evidence: Evidence, variant: Variant, source: Run, run: Run, batch_rows: int
) -> tuple[dict[str, float], Variant]:
    """The variant's metrics on all held-out rows, and the deciding one beside float32's, both through the serving backend.

    Raises ParityError where an answer is not finite: there is no metric of that.
    """
    if evidence.evaluate is None or evidence.held_out is None:
        return {}, variant
    answers = [judge.answers(each, evidence.held_out, batch_rows) for each in (source, run)]
    judge.check_finite(answers[1], answers[0])
    before, after = map(evidence.evaluate, answers)
    if evidence.metric in before:
        variant = replace(
            variant,
            metric=evidence.metric,
            metric_source=float(before[evidence.metric]),
            metric_variant=float(after[evidence.metric]),
        )
    return {name: float(value) for name, value in after.items()}, variant


def _check_metric(evidence: Evidence, variant: Variant) -> None:
    if variant.metric_variant is not None and variant.metric_source is not None:
        judge.check_metric(
            variant.metric,
            variant.metric_variant,
            variant.metric_source,
            smaller_is_better=evidence.smaller_is_better,
            most_loss=variant.most_loss,
        )


def _copy_assets(source: Exported, target: Path) -> None:
    """The processor's files, labels, the stored rows with the float32 answers to them."""
    for name in source.manifest.files:
        if Path(name).parts[0] == ASSETS_DIRECTORY:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, target / name)
