"""The rows that versions are compared on: held out by all of them, or new to all of them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from services.errors import DataError, FailedPrecondition
from services.manifest import ONNX_FILE
from services.processing import Processor, load_processor
from training.comparison.candidates import Candidate
from training.pipeline import Arrays, Baseline, Examples, Loaded, Source
from training.precision.judge import answers, runner

_JUDGED_ON_THEIR_OWN = {
    "anomaly_detection": "it says what is normal",
    "tabular_features": "features are judged by a model that is fitted on its training rows",
}
"""Tasks that are not judged without the data that versions were trained on, and why."""


@dataclass(frozen=True)
class Rows:
    """The same rows as each candidate encodes them, and what is known of them.

    `fresh` says that no candidate was trained on any row of that data; otherwise the rows are those that all held out.
    `baselines` are the families' own, fitted on the rows that were not held out; there are none for fresh rows.
    """

    name: str
    sha256: str
    fresh: bool
    examples: tuple[Examples, ...]
    baselines: tuple[Baseline, ...] = ()

    def __len__(self) -> int:
        return len(self.examples[0])


def rows_for(candidates: Sequence[Candidate], data: Path | None, target: str | None) -> Rows:
    """The rows of the data that all candidates were trained on which all held out, or all of `data` that none has seen.

    The target is the one that the versions were trained for; `target` says it where no manifest does. Raises
    FailedPrecondition where there are no such rows or the targets differ, DataError for a file that does not fit.
    """
    source = Source(data, _target(candidates, target))
    loaded = [candidates[0].pipeline.load(source, candidates[0].options)]
    with _warned():
        loaded += [candidate.pipeline.load(source, candidate.options) for candidate in candidates[1:]]
    known = {candidate.title: candidate.manifest.provenance.dataset_sha256 for candidate in candidates}
    seen = [title for title, digest in known.items() if digest == loaded[0].sha256]
    if data is not None and not seen:
        return _fresh(candidates, loaded)
    if len(seen) < len(candidates):
        _refuse_data(candidates, loaded[0], seen, given=data is not None)
    _check_split(candidates)
    return _held_out(candidates, loaded)


def _target(candidates: Sequence[Candidate], asked: str | None) -> str | None:
    """The target of training, or the one asked for where no manifest records any. Raises FailedPrecondition for several."""
    recorded = {candidate.title: candidate.manifest.provenance.target for candidate in candidates}
    known = {title: target for title, target in recorded.items() if target is not None}
    if len(set(known.values())) > 1:
        found = ", ".join(f"{title} for {target}" for title, target in known.items())
        raise FailedPrecondition(f"Expected versions that were trained for the same --target. Received: {found}.")
    trained_for = next(iter(known.values()), asked)
    if asked not in (None, trained_for):
        raise FailedPrecondition(
            f"Expected --target {trained_for}, which the versions were trained for, or none. Received: {asked}."
        )
    return trained_for


@contextmanager
def _warned() -> Iterator[None]:
    """Say nothing of what the same data was warned of before."""
    logger = logging.getLogger("training")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _held_out(candidates: Sequence[Candidate], loaded: Sequence[Loaded[Any]]) -> Rows:
    examples, baselines = [], []
    for candidate, own in zip(candidates, loaded, strict=True):
        pipeline, options, processor = candidate.pipeline, candidate.options, _processor(candidate)
        split = pipeline.split(own.data, options)
        training, test = (pipeline.examples(part, processor, options) for part in (split.train, split.test))
        _check_labels(candidate, test)
        examples.append(pipeline.equip(partial(_answers, candidate), training, test, options))
        baseline = pipeline.baseline(training, test, options)
        if baseline.metrics and baseline not in baselines:
            baselines.append(baseline)
    _check_alike(candidates, examples)
    return Rows(loaded[0].name, loaded[0].sha256, False, tuple(examples), tuple(baselines))


def _answers(candidate: Candidate, inputs: Arrays) -> Arrays:
    """What the published version answers to rows."""
    with runner(candidate.path / ONNX_FILE) as run:
        return answers(run, inputs, candidate.manifest.batching.max_batch_rows)


def _fresh(candidates: Sequence[Candidate], loaded: Sequence[Loaded[Any]]) -> Rows:
    task = candidates[0].manifest.task
    if task in _JUDGED_ON_THEIR_OWN:
        raise FailedPrecondition(
            f"Expected --data that the versions were trained on: for {task} {_JUDGED_ON_THEIR_OWN[task]}. "
            f"Received: {loaded[0].name}, which none of them was."
        )
    examples = []
    for candidate, own in zip(candidates, loaded, strict=True):
        rows = candidate.pipeline.examples(own.data, _processor(candidate), candidate.options)
        examples.append(_relabelled(rows, candidate, own.name))
    _check_alike(candidates, examples)
    return Rows(loaded[0].name, loaded[0].sha256, True, tuple(examples))


def _relabelled(rows: Examples, candidate: Candidate, name: str) -> Examples:
    """Rows whose targets are indices into the candidate's labels, not into those of this data."""
    labels = candidate.manifest.labels
    if not labels or rows.labels == labels:
        return rows
    unknown = sorted(set(rows.labels) - set(labels))
    if unknown:
        raise DataError(f"{name}: expected labels out of {', '.join(labels)}. Found {', '.join(unknown)}.")
    places = np.array([labels.index(label) for label in rows.labels], np.int64)
    return replace(rows, targets=places[rows.targets], labels=labels)


def _processor(candidate: Candidate) -> Processor:
    spec = candidate.manifest.processor
    if spec is None:
        raise FailedPrecondition(f"{candidate.title}: expected a version with a processor. Received: one without.")
    return load_processor(candidate.path, spec)


def _refuse_data(candidates: Sequence[Candidate], loaded: Loaded[Any], seen: Sequence[str], *, given: bool) -> None:
    trained = "; ".join(
        f"{candidate.title} on {candidate.manifest.provenance.dataset} "
        f"(SHA-256 {candidate.manifest.provenance.dataset_sha256[:12]}...)"
        for candidate in candidates
    )
    received = f"{loaded.name} (SHA-256 {loaded.sha256[:12]}...)"
    if given:
        raise FailedPrecondition(
            f"Expected --data that all of the versions were trained on, or none of them. Received: {received}, which "
            f"{', '.join(seen)} was trained on and others were not. Trained were {trained}."
        )
    raise FailedPrecondition(
        f"Expected the data that the versions were trained on, or data that none of them has seen, by --data. "
        f"Received: none, which stands for {received}. Trained were {trained}."
    )


def _check_split(candidates: Sequence[Candidate]) -> None:
    """Raises FailedPrecondition where the same data was not cut in the same place: one's held-out rows taught another."""
    first = candidates[0]
    names = dict.fromkeys(name for candidate in candidates for name in candidate.pipeline.split_options)
    for other in candidates[1:]:
        apart = [name for name in names if getattr(first.options, name) != getattr(other.options, name)]
        if apart:
            cuts = (
                f"{each.title} with {', '.join(f'{name}={getattr(each.options, name)}' for name in apart)}"
                for each in (first, other)
            )
            raise FailedPrecondition(
                f"Expected versions that held out the same rows. Received: {' and '.join(cuts)}: what one held out, the "
                "other may have learnt. Give rows that none of them has seen by --data."
            )


def _check_labels(candidate: Candidate, rows: Examples) -> None:
    """Raises FailedPrecondition where the data was read for other classes than the version answers: by another target."""
    labels = candidate.manifest.labels
    if labels and rows.labels != labels:
        raise FailedPrecondition(
            f"{candidate.title}: expected the --target that it was trained for, with the labels {', '.join(labels)}. "
            f"Received: one with {', '.join(rows.labels) or 'none'}."
        )


def _check_alike(candidates: Sequence[Candidate], examples: Sequence[Examples]) -> None:
    """Raises FailedPrecondition where the versions would be judged by different answers."""
    first = examples[0].targets
    for candidate, rows in zip(candidates[1:], examples[1:], strict=True):
        if rows.targets.shape != first.shape or not np.array_equal(rows.targets, first):
            raise FailedPrecondition(
                f"Expected versions that answer the same about the same rows. Received: {candidates[0].title}, which is to "
                f"answer {list(first.shape)} values, and {candidate.title}, which is to answer {list(rows.targets.shape)}"
                f"{'' if rows.targets.shape != first.shape else ' others'}: another target, horizon or choice of rows."
            )
