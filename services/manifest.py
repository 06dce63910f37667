"""manifest.json: what an export says about itself.

Written by `training.exporter`, read by the server, `cornet models` and batch jobs. The directory's name is the version;
the manifest does not repeat it, so that a version can be copied under another number.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from services.errors import DataLoss, ManifestError
from services.manifest_reader import Reader, check_path, read_hashes, read_onnx_file, read_signature
from services.tensors import DEFAULT_SIGNATURE, Signature

MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"
SAVED_MODEL_FILE = "saved_model.pb"
ASSETS_DIRECTORY = "assets"
SAMPLES_FILE = f"{ASSETS_DIRECTORY}/samples.npz"
"""Held-out input rows and Keras's answers to them: what `cornet models verify` compares with."""
SINGLE_SIGNATURE_SCHEMA, SCHEMA_VERSION = 1, 2
"""Versions of this file's own form. 2 knows further signatures; what has none is written as 1, as older servers read it."""
FP32 = "fp32"
"""The precision of what was trained, and of a manifest that does not say."""

TASKS = (
    "regression",
    "classification",
    "image_classification",
    "forecasting",
    "text_classification",
    "anomaly_detection",
    "image_features",
    "text_to_image",
    "tabular_features",
)
"""What a model is for; the typed HTTP endpoints are chosen by it. A model exported without one has the task ''."""


@dataclass(frozen=True, slots=True)
class ProcessorSpec:
    """Which processor turns raw payloads into this model's tensors. `files` are its assets, relative to the version."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchingHints:
    """What the exporter found good for this model; a server's own configuration wins. Rows, not requests."""

    max_batch_rows: int = 64
    max_queue_delay_us: int = 0


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """How far one output of one format was from Keras on `samples` held-out rows.

    A value passes when `abs(got - keras) <= atol + rtol * abs(keras)` (numpy.allclose's rule). `agreement` is the share of
    equal elements, or of equal rows of integers, for outputs that are no floats.

    A record with an `nrmse_limit` is of an int8 model, whose floats are judged by statistics over all rows instead:
    `services.parity.compare_statistics` says how. `signature` is the one that the output is of.
    """

    format: str
    output: str
    samples: int
    max_abs: float
    max_rel: float
    atol: float
    rtol: float
    agreement: float = 1.0
    nrmse: float = 0.0
    nrmse_limit: float = 0.0
    agreement_limit: float = 0.0
    signature: str = DEFAULT_SIGNATURE

    def to_json(self) -> dict[str, Any]:
        """Without `signature` where it is the one that a manifest of schema 1 has."""
        value = asdict(self)
        if self.signature == DEFAULT_SIGNATURE:
            del value["signature"]
        return value


@dataclass(frozen=True, slots=True)
class LatencyRecord:
    """Median CPU microseconds of one batch of `rows` through the serving backend on one thread: float32 and this variant."""

    rows: int
    source_us: float
    variant_us: float


@dataclass(frozen=True, slots=True)
class Variant:
    """How a model in another precision was made from the float32 version `source`/`source_version`, and what it came to.

    `method` is 'float16', 'dynamic' or 'static'. `converted` counts the operations that compute in the precision by type,
    `kept` those of the same types that stayed in float32. `metric` is the one the accuracy gate judged on held-out rows,
    '' where there was none to judge by; `most_loss` is the share of `metric_source` by which it may be worse.
    """

    source: str
    source_version: int
    source_sha256: str
    method: str
    converted: Mapping[str, int]
    kept: Mapping[str, int] = field(default_factory=dict)
    calibration_rows: int = 0
    calibration_source: str = ""
    source_bytes: int = 0
    bytes: int = 0
    metric: str = ""
    metric_source: float | None = None
    metric_variant: float | None = None
    most_loss: float = 0.0
    latency: tuple[LatencyRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from.

    `base_weights` is '' (trained from scratch), 'imagenet', 'random', or 'sha256:<hash>' of a weights file. `target` is the
    column that was asked for, by name or index; None where none was, or the manifest is of a release that did not record it.
    """

    git_commit: str = ""
    seed: int | None = None
    dataset: str = ""
    dataset_sha256: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    base_weights: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without `target` where there is none, as servers that do not know it read the rest."""
        value = asdict(self)
        if self.target is None:
            del value["target"]
        return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """One exported version. `created` is ISO 8601 in UTC; `files` maps relative path to SHA-256, manifest.json excepted.

    `precision` is fp32, fp16 or int8; what is not fp32 has a `variant`, and no SavedModel. `onnx_files` maps a signature to
    the ONNX file of its function, where that is not model.onnx; signatures of the same function share a file. `notes` are
    what a family says of its model beyond all that: a chosen threshold, and how it was chosen.
    """

    name: str
    family: str
    task: str
    created: str
    signatures: Mapping[str, Signature]
    processor: ProcessorSpec | None = None
    labels: tuple[str, ...] = ()
    batching: BatchingHints = field(default_factory=BatchingHints)
    notes: Mapping[str, float | str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    parity: tuple[ParityRecord, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    files: Mapping[str, str] = field(default_factory=dict)
    precision: str = FP32
    variant: Variant | None = None
    onnx_files: Mapping[str, str] = field(default_factory=dict)

    def onnx_file(self, signature: str) -> str:
        """The ONNX file of a signature's function, relative to the version."""
        return self.onnx_files.get(signature, ONNX_FILE)

    @property
    def functions(self) -> dict[str, str]:
        """Every ONNX file, and the first signature that is its function; model.onnx first."""
        files: dict[str, str] = {}
        for key in sorted(self.signatures, key=lambda key: key != DEFAULT_SIGNATURE):
            files.setdefault(self.onnx_file(key), key)
        return files

    def to_json(self) -> dict[str, Any]:
        signatures = {
            key: {
                "inputs": [spec.to_json() for spec in signature.inputs],
                "outputs": [spec.to_json() for spec in signature.outputs],
                **({"onnx": self.onnx_files[key]} if key in self.onnx_files else {}),
            }
            for key, signature in self.signatures.items()
        }
        plain = {name: getattr(self, name) for name in ("name", "family", "task", "created")}
        several = len(self.signatures) > 1 or bool(self.onnx_files)
        return {
            "schema_version": SCHEMA_VERSION if several else SINGLE_SIGNATURE_SCHEMA,
            **plain,
            "signatures": signatures,
            "processor": None if self.processor is None else asdict(self.processor),
            "labels": list(self.labels),
            "batching": asdict(self.batching),
            "notes": dict(self.notes),
            "metrics": dict(self.metrics),
            "baseline": dict(self.baseline),
            "parity": [record.to_json() for record in self.parity],
            "provenance": self.provenance.to_json(),
            "precision": self.precision,
            "variant": None if self.variant is None else asdict(self.variant),
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Manifest":
        """Read what `to_json` wrote. Raises ManifestError naming the field, what was expected and what was found."""
        reader = Reader(value, "manifest")
        schema = reader.take("schema_version", int)
        if schema not in (SINGLE_SIGNATURE_SCHEMA, SCHEMA_VERSION):
            raise ManifestError(
                f"manifest.schema_version: expected {SINGLE_SIGNATURE_SCHEMA} or {SCHEMA_VERSION}. Received: {schema}."
            )
        described = reader.take("signatures", dict)
        signatures = {key: read_signature(value, f"manifest.signatures.{key}") for key, value in described.items()}
        if not signatures:
            raise ManifestError("manifest.signatures: expected at least one signature. Received: {}.")
        processor, variant = value.get("processor"), value.get("variant")
        files = read_hashes(reader.take("files", dict))
        return cls(
            name=reader.take("name", str),
            family=reader.take("family", str),
            task=reader.take("task", str),
            created=reader.take("created", str),
            signatures=signatures,
            processor=None if processor is None else _processor(processor),
            labels=tuple(reader.texts("labels")),
            batching=BatchingHints(**Reader(value.get("batching", {}), "manifest.batching").known(BatchingHints)),
            notes=reader.take("notes", dict) if "notes" in value else {},
            metrics=reader.take("metrics", dict),
            baseline=reader.take("baseline", dict),
            parity=tuple(
                ParityRecord(**Reader(record, f"manifest.parity[{i}]").known(ParityRecord))
                for i, record in enumerate(reader.take("parity", list))
            ),
            provenance=Provenance(**Reader(value.get("provenance", {}), "manifest.provenance").known(Provenance)),
            files=files,
            precision=reader.take("precision", str) if "precision" in value else FP32,
            variant=None if variant is None else _variant(variant),
            onnx_files={
                key: read_onnx_file(value, f"manifest.signatures.{key}", files)
                for key, value in described.items()
                if "onnx" in value
            },
        )

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """The manifest of a version directory. Raises FileNotFoundError where there is none, ManifestError otherwise."""
        text = (directory / MANIFEST_FILE).read_bytes()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"manifest.json: expected JSON. Received: {error}.") from error
        return cls.from_json(value)

    def write(self, directory: Path) -> None:
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def onnx_file_of(signature: str) -> str:
    """What the exporter calls the ONNX file of a signature that is a function of its own."""
    return ONNX_FILE if signature == DEFAULT_SIGNATURE else f"model-{signature}.onnx"


def onnx_files_of(manifest: Manifest | None) -> dict[str, str]:
    """Every signature's ONNX file; without a manifest model.onnx is that of `serving_default`, the only one."""
    if manifest is None:
        return {DEFAULT_SIGNATURE: ONNX_FILE}
    return {key: manifest.onnx_file(key) for key in manifest.signatures}


def has_onnx(directory: Path, manifest: Manifest | None) -> bool:
    """Whether a version holds ONNX files, be it that some of its signatures' are missing."""
    return any((directory / file).is_file() for file in onnx_files_of(manifest).values())


def samples_file_of(onnx_file: str) -> str:
    """Where the stored rows of an ONNX file's function are: assets/samples-impute.npz for model-impute.onnx."""
    if onnx_file == ONNX_FILE:
        return SAMPLES_FILE
    return f"{ASSETS_DIRECTORY}/samples-{Path(onnx_file).stem.removeprefix('model-')}.npz"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """SHA-256 by relative POSIX path of every file below a version directory, manifest.json excepted."""
    return {name: sha256(directory / name) for name in _names(directory)}


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare the files of a version with the hashes in its manifest. Raises DataLoss that lists every difference."""
    present = set(_names(directory))
    problems = [f"{name} is missing" for name in sorted(set(manifest.files) - present)]
    problems += [f"{name} is not in the manifest" for name in sorted(present - set(manifest.files))]
    for name in sorted(present & set(manifest.files)):
        found = sha256(directory / name)
        if found != manifest.files[name]:
            problems.append(f"{name} has SHA-256 {found}, expected {manifest.files[name]}")
    if problems:
        raise DataLoss(f"{directory.parent.name}/{directory.name}: " + "; ".join(problems) + ".")


def _names(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST_FILE:
            yield path.relative_to(directory).as_posix()


def _processor(value: Any) -> ProcessorSpec:
    reader = Reader(value, "manifest.processor")
    files = tuple(reader.texts("files"))
    for name in files:
        check_path(name, "manifest.processor.files")
    return ProcessorSpec(kind=reader.take("kind", str), options=reader.take("options", dict), files=files)


def _variant(value: Any) -> Variant:
    reader = Reader(value, "manifest.variant")
    known = Variant(**reader.known(Variant))
    latency = (
        LatencyRecord(**Reader(record, f"manifest.variant.latency[{i}]").known(LatencyRecord))
        for i, record in enumerate(reader.take("latency", list))
    )
    return replace(known, latency=tuple(latency))
