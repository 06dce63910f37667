"""From a version directory to a warm servable. Runs in a thread: files are read and hashed, and the model is tried."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from services.engine.backend import CPU, Backend, BackendOptions, OnnxBackend
from services.engine.costs import CostTable, elements_of
from services.engine.model_config import BatchingOptions, ModelConfig
from services.engine.servable import Servable
from services.errors import CornetError, DataLoss, ManifestError
from services.manifest import SAVED_MODEL_FILE, Manifest, has_onnx, onnx_files_of, sha256
from services.telemetry.log import get_logger
from services.tensors import DYNAMIC, Signature, TensorSpec

_WARM_ENOUGH_S = 0.02  # a batch beyond this never runs on the loop, and one size or two have warmed the model up
_SHORT_S = 2e-4
"""A few times what it takes to wake a thread, which is what a batch pays for the second one.

Measured on two CPUs that others used too, best of 25 interleaved rounds, one thread beside two: a row of a small CNN 14 us
beside 19 and 64 rows 180 beside 192; dense layers alike, as ONNX Runtime does not share out so little; 64 rows of an LSTM,
where two begin to gain, 560 beside 505.
"""
_WARM_AXIS = 8  # length given to variable axes
_REPEATS = 3

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`verify_hashes`: compare the ONNX files and the processor's assets with the hashes in the manifest.

    ONNX Runtime loads a file whose weights were damaged without a word, so the hash is the only witness. It costs about a
    millisecond per 2 MB (60 MB of VGG16: 30 to 50 ms, where opening the session takes 100), hence on by default.
    """

    backend: BackendOptions = field(default_factory=BackendOptions)
    verify_hashes: bool = True


def load(config: ModelConfig, version: int, path: Path, options: LoadOptions) -> Servable:
    """Load, check and warm up one version. Raises CornetError with the reason, fit for a client."""
    manifest = _manifest(path)
    if manifest is not None and options.verify_hashes:
        _verify_hashes(path, manifest)
    batching = config.batching.resolve(None if manifest is None else manifest.batching)
    runs = config.batching.concurrent_batches or options.backend.gpu.runs
    on_device = replace(options.backend, gpu=replace(options.backend.gpu, runs=runs))
    backend, signatures, batching, costs, warm_up_s = _prepare(path, manifest, batching, on_device)
    if _prefers_one_thread(backend, costs, options.backend):
        backend.close()
        one_thread = replace(on_device, intra_op_threads=1)
        backend, signatures, batching, costs, warm_up_s = _prepare(path, manifest, batching, one_thread)
    return Servable(
        config.name,
        version,
        path,
        backend,
        signatures=signatures,
        manifest=manifest,
        batching=batching,
        costs=costs,
        warm_up_s=warm_up_s,
    )


def _prepare(
    path: Path, manifest: Manifest | None, batching: BatchingOptions, options: BackendOptions
) -> tuple[Backend, Mapping[str, Signature], BatchingOptions, dict[str, CostTable], float]:
    """The open backend, its signatures, how it is batched, what that costs, and the seconds it took to find that out."""
    backend = open_backend(path, manifest, options)
    try:
        signatures = backend.signatures if manifest is None else _agreed(manifest, backend)
        began = perf_counter()
        batching = _for_device(batching, backend, options)
        costs = {key: warm_up(backend, key, signature, batching) for key, signature in signatures.items()}
    except BaseException:
        backend.close()
        raise
    return backend, signatures, batching, costs, perf_counter() - began


def _for_device(batching: BatchingOptions, backend: Backend, options: BackendOptions) -> BatchingOptions:
    """The options, with what a model on a GPU needs and no user set.

    Two runs at a time: while one computes, the next is copied over; a third would wait for the GPU, and cost its memory. A
    few sizes of batches for a model that convolves, a session for each: any other number of rows has it plan anew.
    """
    if backend.threads is None:
        return batching
    sizes = batching.allowed_batch_rows
    if isinstance(backend, OnnxBackend) and backend.convolves:
        sizes = sizes or spread(batching.max_batch_rows)
        backend.specialise(sizes)
    return replace(batching, concurrent_batches=options.gpu.runs, allowed_batch_rows=sizes)


def spread(most: int) -> tuple[int, ...]:
    """Sizes up to `most`, each four times the one before: no batch is filled up to more than four times its rows."""
    return (*(4**i for i in range(most.bit_length()) if 4**i < most), most)


def _prefers_one_thread(backend: Backend, costs: Mapping[str, CostTable], options: BackendOptions) -> bool:
    """Whether even the largest batch is so short that waking a second thread costs more than it brings."""
    free = options.intra_op_threads == 0 and backend.providers == (CPU,)
    return free and all(table.largest < _SHORT_S for table in costs.values())


def open_backend(path: Path, manifest: Manifest | None, options: BackendOptions) -> Backend:
    """The backend for a version directory: ONNX where its files are there, else its SavedModel. Raises CornetError.

    Without a manifest a model.onnx is the signature `serving_default`, and no other.
    """
    files = onnx_files_of(manifest)
    if has_onnx(path, manifest):
        return OnnxBackend({key: path / file for key, file in files.items()}, options)
    if (path / SAVED_MODEL_FILE).is_file():
        from services.engine.savedmodel_backend import SavedModelBackend

        return SavedModelBackend(path)
    expected = ", ".join(dict.fromkeys(files.values()))
    raise DataLoss(f"Expected {expected} or {SAVED_MODEL_FILE} in the version directory. Received: neither.")


def warm_up(backend: Backend, key: str, signature: Signature, batching: BatchingOptions) -> CostTable:
    """Run every allowed batch size, or powers of two up to the largest while they are quick, and time them.

    The inputs are zeros, and a model may rightly refuse those: that is no failure, it is then served cold.
    """
    costs = CostTable()
    for rows in _warm_up_rows(signature, batching):
        inputs = {spec.name: _zeros(spec, rows) for spec in signature.inputs}
        try:
            if backend.threads is not None:  # each has a stream to make, and all but the first a plan to find made
                backend.threads.on_each(partial(backend.run, key, inputs, ()))
            seconds = min(_timed(backend, key, inputs) for _ in range(_REPEATS if rows == 1 else 2))
        except CornetError as error:
            _log.info("a model cannot be warmed up with zeros", signature=key, reason=str(error))
            break
        costs.observe(elements_of(inputs), seconds)
        if seconds > _WARM_ENOUGH_S and not batching.allowed_batch_rows:
            break
    return costs


def _warm_up_rows(signature: Signature, batching: BatchingOptions) -> tuple[int, ...]:
    if not signature.batchable:
        return (1,)
    if batching.allowed_batch_rows:
        return batching.allowed_batch_rows
    powers = [1 << i for i in range(batching.max_batch_rows.bit_length())]
    return tuple(dict.fromkeys([*powers, batching.max_batch_rows]))


def _timed(backend: Backend, key: str, inputs: Mapping[str, np.ndarray]) -> float:
    began = perf_counter()
    if backend.threads is None:
        backend.run(key, inputs, ())
    else:
        backend.threads.submit(backend.run, key, inputs, ()).result()
    return perf_counter() - began


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray:
    shape = list(spec.shape or ())
    for axis, length in enumerate(shape):
        if length == DYNAMIC:
            shape[axis] = rows if axis == 0 else _WARM_AXIS
    return np.full(shape, b"", object) if spec.dtype.is_string else np.zeros(shape, spec.dtype.numpy)


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.read(path)
    except FileNotFoundError:
        return None


def _verify_hashes(path: Path, manifest: Manifest) -> None:
    """Compare what serving reads with its recorded hashes; the whole directory is `cornet models verify`'s work."""
    assets = manifest.processor.files if manifest.processor else ()
    models = tuple(manifest.functions)
    for name in sorted(manifest.files):
        if name not in assets and not name.startswith(models):  # model.onnx.data holds the weights of a large model
            continue
        if not (path / name).is_file():
            raise DataLoss(f"The manifest names {name}. Received: no such file.")
        found = sha256(path / name)
        if found != manifest.files[name]:
            raise DataLoss(f"{name}: expected SHA-256 {manifest.files[name]}, as in the manifest. Received: {found}.")


def _agreed(manifest: Manifest, backend: Backend) -> Mapping[str, Signature]:
    """The manifest's signatures, once the model file is known to have them. Raises ManifestError."""
    for key, promised in manifest.signatures.items():
        real = backend.signatures.get(key)
        if real is None:
            known = ", ".join(backend.signatures)
            raise ManifestError(f"manifest.signatures.{key}: expected one that the model has, {known}.")
        for side in ("inputs", "outputs"):
            _compare(f"manifest.signatures.{key}.{side}", getattr(promised, side), getattr(real, side))
    return manifest.signatures


def _compare(where: str, promised: tuple[TensorSpec, ...], real: tuple[TensorSpec, ...]) -> None:
    by_name = {spec.name: spec for spec in real}
    if {spec.name for spec in promised} != set(by_name):
        raise ManifestError(
            f"{where}: expected the model's own, {', '.join(sorted(by_name))}. "
            f"Received: {', '.join(sorted(spec.name for spec in promised))}."
        )
    for spec in promised:
        if spec.dtype != by_name[spec.name].dtype or not _compatible(spec.shape, by_name[spec.name].shape):
            raise ManifestError(f"{where}: expected {by_name[spec.name]}, as in the model file. Received: {spec}.")


def _compatible(promised: tuple[int, ...] | None, real: tuple[int, ...] | None) -> bool:
    """Whether the model can keep the promise: an axis may be promised more narrowly than the model needs, never wider."""
    if promised is None or real is None:
        return real is None
    return len(promised) == len(real) and all(r in (DYNAMIC, p) for p, r in zip(promised, real, strict=True))
