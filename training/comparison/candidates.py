"""The versions to compare: found in the repository, and held to be comparable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from services.engine.repository import scan_model, scan_repository
from services.errors import FailedPrecondition, InvalidArgument, ModelNotFound, NotFound
from services.manifest import MANIFEST_FILE, Manifest
from services.tensors import DEFAULT_SIGNATURE
from training.pipeline import CommonOptions, Pipeline
from training.pipelines import find

FEWEST = 2


@dataclass(frozen=True)
class Candidate:
    """One published version, and the pipeline and options it was trained by."""

    name: str
    version: int
    path: Path
    manifest: Manifest
    pipeline: Pipeline
    options: CommonOptions

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"


def select(repository: Path, targets: Sequence[str]) -> list[Candidate]:
    """What each `NAME` (its latest version) or `NAME/VERSION` means, in that order.

    Raises ModelNotFound for what is not there, InvalidArgument for fewer than two or one twice, FailedPrecondition where a
    version cannot be compared with the first.
    """
    found = [_candidate(repository, target) for target in targets]
    titles = [candidate.title for candidate in found]
    if len(found) < FEWEST or len(set(titles)) < len(titles):
        raise InvalidArgument(
            f"Expected two different versions at least, as NAME or NAME/VERSION. Received: {', '.join(titles) or 'none'}."
        )
    for aspect, value in _ASPECTS.items():
        first = value(found[0])
        for other in found[1:]:
            if value(other) != first:
                raise FailedPrecondition(
                    f"Expected versions of the same {aspect}. Received: {found[0].title} of {first} and {other.title} of "
                    f"{value(other)}."
                )
    return found


_ASPECTS: Mapping[str, Callable[[Candidate], str]] = {
    "task": lambda candidate: candidate.manifest.task,
    "labels": lambda candidate: ", ".join(candidate.manifest.labels) or "none",
    "outputs": lambda candidate: ", ".join(
        f"{spec.name} {spec.dtype.name}" for spec in candidate.manifest.signatures[DEFAULT_SIGNATURE].outputs
    ),
    "metric": lambda candidate: candidate.pipeline.primary_metric,
}
"""What must be equal for answers to be judged alike. Inputs may differ: each version encodes the rows in its own way."""


def _candidate(repository: Path, target: str) -> Candidate:
    name, slash, wanted = target.partition("/")
    models = scan_repository(repository)
    if models is None:
        raise NotFound(f"Expected a folder of <name>/<version>/ directories. Received: {repository}.")
    versions = scan_model(models[name]) or {} if name in models else {}
    version = int(wanted) if wanted.isascii() and wanted.isdigit() else None if slash else max(versions, default=None)
    if version not in versions:
        there = ", ".join(f"{name}/{number}" for number in sorted(versions)) or ", ".join(models) or "none"
        known = f"Expected NAME or NAME/VERSION. There are: {there}."
        raise ModelNotFound(name, version, known=known)
    path = versions[version].path
    if not (path / MANIFEST_FILE).is_file():
        raise FailedPrecondition(f"{target}: expected a version that cornet trained. Received: one without a manifest.")
    manifest = Manifest.read(path)
    try:
        family = find(manifest.family)
    except NotFound:
        raise FailedPrecondition(
            f"{target}: expected a version of one of cornet's families, whose data can be read again. "
            f"Received: the family {manifest.family!r}."
        ) from None
    options = _options(family.options, manifest.provenance.options, target)
    return Candidate(name, version, path, manifest, family.chosen(options), options)


def _options(kind: type[CommonOptions], recorded: Mapping[str, Any], target: str) -> CommonOptions:
    """The options a version was trained by; one that it does not record was not there, and has its default."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(recorded) - known)
    if unknown:
        raise FailedPrecondition(
            f"{target}: expected options of this release of cornet. Received: {', '.join(unknown)}, of another."
        )
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()}
    return kind(**values)
