"""The model of a job: chosen from the repository once, then opened by every process that computes."""

from dataclasses import dataclass
from pathlib import Path

from services.batch.job import ModelRef
from services.batch.tensors import TensorEncoder
from services.engine.backend import Backend, BackendOptions, OnnxBackend
from services.engine.repository import scan_model
from services.errors import DataLoss, FailedPrecondition, InvalidArgument, ModelNotFound, SignatureNotFound
from services.manifest import Manifest, has_onnx, onnx_files_of, sha256
from services.processing import Processor, load_processor
from services.processing.imputation import IMPUTE, ImputeEncoder
from services.processing.tabular import TabularProcessor
from services.tensors import DEFAULT_SIGNATURE, Signature

DEFAULT_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Card:
    """What a version says about itself, as far as a job needs it. A model without a manifest has no task and no labels."""

    manifest: Manifest | None
    batch_rows: int

    @property
    def task(self) -> str:
        return "" if self.manifest is None else self.manifest.task

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.manifest is None else self.manifest.labels


def resolve(repository: Path, target: str, signature: str = DEFAULT_SIGNATURE) -> ModelRef:
    """The version that `NAME` (the latest) or `NAME/VERSION` means, and the file of a signature of it.

    The file and the processor's assets are compared with the hashes in the manifest, where there is one. Raises
    ModelNotFound, SignatureNotFound, DataLoss, FailedPrecondition.
    """
    name, _, text = target.partition("/")
    if not name or (text and not (text.isascii() and text.isdigit())):
        raise InvalidArgument(f"Expected a model as NAME or NAME/VERSION. Received: {target!r}.")
    versions = scan_model(repository / name) or {}
    version = int(text) if text else max(versions, default=0)
    if version not in versions:
        known = f"In {repository}: {', '.join(f'{name}/{v}' for v in sorted(versions)) or 'no version of it'}."
        raise ModelNotFound(name, int(text) if text else None, known=known)
    path = versions[version].path.resolve()
    manifest = read_card(path).manifest
    files = onnx_files_of(manifest)
    if not has_onnx(path, manifest):
        expected = ", ".join(dict.fromkeys(files.values()))
        raise FailedPrecondition(f"{name}/{version}: expected {expected}. Received: a version without ONNX files.")
    if signature not in files:
        raise SignatureNotFound(signature, tuple(files))
    file = files[signature]
    return ModelRef(name, version, path, _verified(path, manifest, file), signature, file)


def read_card(path: Path) -> Card:
    """What the manifest of a version says. Raises ManifestError."""
    try:
        manifest = Manifest.read(path)
    except FileNotFoundError:
        return Card(None, DEFAULT_BATCH_ROWS)
    return Card(manifest, manifest.batching.max_batch_rows)


def open_encoder(model: ModelRef, signature: Signature | None = None) -> Processor | TensorEncoder | ImputeEncoder:
    """What turns records into tensors: the version's processor; for one without, its input tensors by name.

    So does a signature with inputs of its own, which the processor knows nothing of; `impute` of rows of a table apart.
    """
    manifest = read_card(model.path).manifest
    if manifest is not None and manifest.processor is not None:
        usual, asked = (manifest.signatures.get(key) for key in (DEFAULT_SIGNATURE, model.signature))
        if usual is None or asked is None or asked.inputs == usual.inputs:
            return load_processor(model.path, manifest.processor)
        if model.signature == IMPUTE:
            processor = load_processor(model.path, manifest.processor)
            if isinstance(processor, TabularProcessor):
                return ImputeEncoder(processor)
        signature = asked
    if signature is None:
        backend = OnnxBackend({model.signature: model.path / model.file}, BackendOptions(intra_op_threads=1))
        signature = backend.signatures[model.signature]
        backend.close()
    return TensorEncoder(signature.inputs)


def open_backend(model: ModelRef, providers: tuple[str, ...], intra_op_threads: int = 0) -> Backend:
    """The backend that online serving uses. Raises FailedPrecondition for a signature that does not count rows."""
    files = {model.signature: model.path / model.file}
    backend = OnnxBackend(files, BackendOptions(providers, intra_op_threads))
    if not backend.signatures[model.signature].batchable:
        backend.close()
        raise FailedPrecondition(
            f"{model.name}/{model.version}: expected a model whose inputs and outputs count rows on a first, variable axis."
        )
    return backend


def _verified(path: Path, manifest: Manifest | None, file: str) -> str:
    """SHA-256 of the ONNX file, once it and the processor's assets are known to be as the manifest says."""
    if not (path / file).is_file():
        raise DataLoss(f"The manifest names {file}. Received: no such file.")
    found = sha256(path / file)
    if manifest is None:
        return found
    assets = manifest.processor.files if manifest.processor else ()
    for name in (file, *assets):
        if not (path / name).is_file():
            raise DataLoss(f"The manifest names {name}. Received: no such file.")
        digest = found if name == file else sha256(path / name)
        if manifest.files.get(name, digest) != digest:
            raise DataLoss(f"{name}: expected SHA-256 {manifest.files[name]}, as in the manifest. Received: {digest}.")
    return found
