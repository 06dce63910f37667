"""What a comparison came to: plain figures for the table, the report and the JSON file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.files import write_whole
from services.manifest import ONNX_FILE, SAVED_MODEL_FILE
from training.comparison.candidates import Candidate
from training.comparison.judge import Difference, Judgement
from training.comparison.measure import Latency, Measured
from training.comparison.rows import Rows
from training.runs import finished_run

SAVED_MODEL_VARIABLES = "variables"


@dataclass(frozen=True)
class Trained:
    """How a version was trained, where its run is recorded: epochs, and seconds of fitting in all processes of the run."""

    epochs: int
    seconds: float | None


@dataclass(frozen=True)
class Entry:
    """One version's figures. `parameters` counts the numbers of weights and tables in the ONNX graph."""

    title: str
    name: str
    version: int
    family: str
    precision: str
    changed: dict[str, Any]
    metrics: dict[str, float]
    difference: Difference | None
    parameters: int
    onnx_bytes: int
    saved_model_bytes: int | None
    latencies: tuple[Latency, ...]
    trained: Trained | None

    def latency(self, concurrent: int) -> Latency:
        return next(latency for latency in self.latencies if latency.concurrent == concurrent)


@dataclass(frozen=True)
class Comparison:
    """All of it: the versions in the order they were named, `best` the index of the best by `metric`."""

    task: str
    metric: str
    rows: Rows
    entries: tuple[Entry, ...]
    best: int
    resamples: int


def compare(
    candidates: Sequence[Candidate], rows: Rows, measured: Sequence[Measured], judgement: Judgement, runs: Path
) -> Comparison:
    """Put what was measured and judged together with what the versions themselves say."""
    changed = _changed(candidates)
    entries = tuple(
        Entry(
            candidate.title,
            candidate.name,
            candidate.version,
            candidate.manifest.family,
            candidate.manifest.precision,
            changed[index],
            judgement.metrics[index],
            judgement.differences[index],
            _parameters(candidate.path / ONNX_FILE),
            (candidate.path / ONNX_FILE).stat().st_size,
            _saved_model_bytes(candidate.path),
            measured[index].latencies,
            _trained(candidate, runs),
        )
        for index, candidate in enumerate(candidates)
    )
    task = candidates[0].manifest.task
    return Comparison(task, judgement.metric, rows, entries, judgement.best, judgement.resamples)


def write_json(path: Path, comparison: Comparison) -> None:
    """All figures as one JSON object."""
    rows = comparison.rows
    document = {
        "task": comparison.task,
        "metric": comparison.metric,
        "data": {"name": rows.name, "sha256": rows.sha256, "rows": len(rows), "new_to_all": rows.fresh},
        "resamples": comparison.resamples,
        "best": comparison.entries[comparison.best].title,
        "models": [_plain(entry) for entry in comparison.entries],
        "baselines": [asdict(baseline) for baseline in rows.baselines],
    }
    write_whole(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n", f"the figures {path}")


def _plain(entry: Entry) -> dict[str, Any]:
    plain = asdict(entry)
    if entry.difference is not None:
        plain["difference"]["chance"] = entry.difference.chance
    return plain


def _changed(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The options in which the versions differ, by version; an option that one's family does not have is left out."""
    recorded = [asdict(candidate.options) for candidate in candidates]
    every = dict.fromkeys(name for options in recorded for name in options)
    differing = [
        name
        for name in every
        if len({repr(options[name]) for options in recorded if name in options}) > 1
        or any(name not in options for options in recorded)
    ]
    defaults = [asdict(type(candidate.options)()) for candidate in candidates]
    return [
        {
            name: options[name]
            for name in differing
            if name in options and (all(name in other for other in recorded) or options[name] != own[name])
        }
        for options, own in zip(recorded, defaults, strict=True)
    ]


def _parameters(path: Path) -> int:
    """Numbers that the graph holds in arrays of a type that is computed with; shapes and indices are int64, and left out."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    kinds = onnx.TensorProto
    computed = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE, kinds.INT8, kinds.UINT8}
    return sum(
        int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.dims and tensor.data_type in computed
    )


def _saved_model_bytes(directory: Path) -> int | None:
    """Size of the SavedModel; None where the version has none, as one in another precision."""
    graph = directory / SAVED_MODEL_FILE
    if not graph.is_file():
        return None
    variables = (directory / SAVED_MODEL_VARIABLES).rglob("*")
    return graph.stat().st_size + sum(file.stat().st_size for file in variables if file.is_file())


def _trained(candidate: Candidate, runs: Path) -> Trained | None:
    """From the record of the run that published the version, or the one that it is a variant of."""
    variant = candidate.manifest.variant
    name, version = (candidate.name, candidate.version) if variant is None else (variant.source, variant.source_version)
    record = finished_run(runs, name, version, candidate.manifest.provenance.dataset_sha256)
    return None if record is None else Trained(len(record["history"]), record.get("seconds"))
