"""What lies in a model repository, and whether it still answers as it did when it was exported.

    for row in list_versions(Path("exported_models")):
        result = verify(row.path)
        print(result.name, result.version, result.ok, result.problems)

Nothing here needs TensorFlow, unless a SavedModel's answers are asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from services.engine.backend import CPU, Backend, BackendOptions, OnnxBackend
from services.engine.repository import version_number
from services.errors import CornetError, DataLoss, ModelNotFound, NotFound
from services.manifest import (
    MANIFEST_FILE,
    ONNX_FILE,
    SAMPLES_FILE,
    SAVED_MODEL_FILE,
    Manifest,
    ParityRecord,
    has_onnx,
    onnx_files_of,
    samples_file_of,
    verify_files,
)
from services.parity import compare_again, read_samples
from services.tensors import DEFAULT_SIGNATURE

ONNX = "onnx"
SAVED_MODEL = "saved_model"

VERIFIED_BATCH_ROWS = 7
"""Rows per call while parity is run again: odd, and neither the exporter's batch nor one of the server's usual ones."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of one model, as it lies on the disk.

    `size` is in bytes. `status` is `exported` (with a manifest that can be read), `plain` (a model of another origin, without
    a manifest), or the reason why it cannot be used. `signatures` are the manifest's. `metrics` has the primary figure first.
    """

    name: str
    version: int
    path: Path
    formats: tuple[str, ...]
    size: int
    status: str
    family: str = ""
    task: str = ""
    created: str = ""
    signatures: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return self.status in {"exported", "plain"}


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked of one version. `problems` empty means that all of it was as it should be.

    `files` is the number of files whose hash was compared, `parity` what each format's answers to the stored rows are apart
    from Keras's. `notes` say what was left out and why.
    """

    name: str
    version: int
    path: Path
    files: int = 0
    parity: tuple[ParityRecord, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def list_versions(repository: Path) -> list[VersionRow]:
    """Every version in a repository, by name and version; temporary directories of exports under way are no versions."""
    rows = [_row(path) for path in _version_directories(repository)]
    return sorted(rows, key=lambda row: (row.name, row.version))


def select(rows: list[VersionRow], target: str | None) -> list[VersionRow]:
    """The rows that `NAME` or `NAME/VERSION` means; all without a target. Raises ModelNotFound."""
    if target is None:
        return rows
    name, _, version = target.partition("/")
    chosen = [row for row in rows if row.name == name and (not version or str(row.version) == version)]
    if not chosen:
        names = sorted({row.name for row in rows})
        known = f"Expected NAME or NAME/VERSION out of {', '.join(names)}." if names else "There are no models here."
        raise ModelNotFound(name, int(version) if version.isdecimal() else None, known=known)
    return chosen


def verify(directory: Path, *, saved_model: bool = False) -> Verification:
    """Compare a version's files with their recorded hashes, then its answers to the stored rows with Keras's.

    ONNX is run by the server's own backend. `saved_model` asks for the SavedModel's answers too, which takes TensorFlow.
    Nothing is raised for what is wrong with the version: it is reported.
    """
    base = Verification(directory.parent.name, int(directory.name), directory)
    try:
        manifest = Manifest.read(directory)
    except FileNotFoundError:
        return _verify_plain(base, _formats(directory, None))
    except (CornetError, OSError) as error:
        return replace(base, problems=(f"{MANIFEST_FILE}: {error}",))
    try:
        verify_files(directory, manifest)
    except (DataLoss, OSError) as error:
        return replace(base, files=len(manifest.files), problems=(str(error),))
    if not any(samples_file_of(file) in manifest.files for file in manifest.functions):
        note = f"{SAMPLES_FILE} is not part of this version: hashes only"
        return replace(base, files=len(manifest.files), notes=(note,))
    formats = _formats(directory, manifest)
    return _verify_answers(replace(base, files=len(manifest.files)), manifest, formats, saved_model)


def _verify_plain(base: Verification, formats: tuple[str, ...]) -> Verification:
    """Without a manifest there is nothing to compare with; an ONNX file can at least be loaded."""
    if not formats:
        return replace(base, problems=(f"Expected {ONNX_FILE} or {SAVED_MODEL_FILE}. Received neither.",))
    if ONNX in formats:
        try:
            OnnxBackend(base.path / ONNX_FILE, BackendOptions(providers=(CPU,))).close()
        except CornetError as error:
            return replace(base, problems=(str(error),))
    return replace(base, notes=("no manifest: nothing to compare with",))


def _verify_answers(
    base: Verification, manifest: Manifest, formats: tuple[str, ...], saved_model: bool
) -> Verification:
    records: list[ParityRecord] = []
    problems: list[str] = []
    notes: list[str] = []
    for format_ in formats:
        if format_ == SAVED_MODEL and not saved_model:
            continue
        if format_ == SAVED_MODEL and find_spec("tensorflow") is None:
            notes.append("saved_model not run: it takes the `tensorflow` extra")
            continue
        try:
            backend = _open(base.path, manifest, format_)
        except CornetError as error:
            problems.append(str(error))
            continue
        try:
            found, failed = _run_again(base.path, manifest, format_, backend)
        finally:
            backend.close()
        records += found
        problems += failed
    return replace(base, parity=tuple(records), problems=tuple(problems), notes=tuple(notes))


def _run_again(
    directory: Path, manifest: Manifest, format_: str, backend: Backend
) -> tuple[list[ParityRecord], list[str]]:
    """What each signature's outputs came to, and what is wrong with a signature: the others are compared all the same."""
    records: list[ParityRecord] = []
    problems: list[str] = []
    for key in manifest.signatures:
        try:
            for record in _compare(directory, manifest, format_, key, backend):
                records.append(record)  # noqa: PERF402  # those before a failure are kept
        except CornetError as error:
            problems.append(str(error) if key == DEFAULT_SIGNATURE else f"Signature {key}: {error}")
    return records, problems


def _compare(
    directory: Path, manifest: Manifest, format_: str, signature: str, backend: Backend
) -> Iterator[ParityRecord]:
    """One signature's answers to the stored rows of its function beside Keras's. Raises CornetError."""
    file = samples_file_of(manifest.onnx_file(signature))
    inputs, answers = read_samples(directory, file)
    known = {r.output: r for r in manifest.parity if (r.format, r.signature) == (format_, signature)}
    got = _answer(backend, signature, inputs, file)
    missing = sorted(set(answers) - set(got))
    if missing:
        raise DataLoss(f"{format_}: expected the outputs {', '.join(answers)}. Received none of {', '.join(missing)}.")
    for output, want in answers.items():
        record = compare_again(known.get(output), format_, output, got[output], want)
        yield replace(record, signature=signature)


def _answer(backend: Backend, signature: str, inputs: Mapping[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    rows = len(next(iter(inputs.values()), ()))
    parts = [
        backend.run(signature, {name: a[start : start + VERIFIED_BATCH_ROWS] for name, a in inputs.items()}, ())
        for start in range(0, rows, VERIFIED_BATCH_ROWS)
    ]
    if not parts:
        raise DataLoss(f"Expected {file} to hold rows. Received none.")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _open(directory: Path, manifest: Manifest, format_: str) -> Backend:
    if format_ == ONNX:
        files = {key: directory / file for key, file in onnx_files_of(manifest).items()}
        return OnnxBackend(files, BackendOptions(providers=(CPU,)))
    from services.engine.savedmodel_backend import SavedModelBackend  # it imports TensorFlow

    return SavedModelBackend(directory)


def _row(path: Path) -> VersionRow:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    manifest: Manifest | None = None
    status = "plain"
    try:
        manifest = Manifest.read(path)
    except FileNotFoundError:
        pass
    except (CornetError, OSError) as error:
        status = str(error)
    formats = _formats(path, manifest)
    if not formats:
        status = f"no {ONNX_FILE} and no {SAVED_MODEL_FILE}"
    row = VersionRow(path.parent.name, int(path.name), path, formats, size, status)
    if manifest is None or not formats:
        return row
    return replace(
        row,
        status="exported",
        family=manifest.family,
        task=manifest.task,
        created=manifest.created,
        signatures=tuple(manifest.signatures),
        metrics=manifest.metrics,
        baseline=manifest.baseline,
    )


def _formats(directory: Path, manifest: Manifest | None) -> tuple[str, ...]:
    present = {ONNX: has_onnx(directory, manifest), SAVED_MODEL: (directory / SAVED_MODEL_FILE).is_file()}
    return tuple(format_ for format_, there in present.items() if there)


def _version_directories(repository: Path) -> Iterator[Path]:
    if not repository.is_dir():
        raise NotFound(f"Expected a folder of <name>/<version>/ directories. Received: {repository}.")
    for model in repository.iterdir():
        if model.is_dir() and not model.name.startswith("."):
            yield from (path for path in model.iterdir() if path.is_dir() and version_number(path.name) is not None)
