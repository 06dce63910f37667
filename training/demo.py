"""`make demo`: train, prove, export, serve and call all families, and compare every answer with Keras's own.

Exits with 1 where anything disagrees. Everything is written below `runs/demo`, afresh each time.
"""

import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from services.errors import ParityError, Unavailable
from services.launch import ServerProcess
from services.parity import compare, read_samples, tolerance_for
from services.processing import Processor, load_processor
from services.processing.answers import decode
from services.tensors import DEFAULT_SIGNATURE
from training.demo_clients import Clients, payload_of
from training.environment import show_warnings
from training.options import options_of, parse
from training.pipeline import Pipeline, Source
from training.pipelines import pipelines
from training.runner import Job, Outcome, train

DIRECTORY = Path("runs/demo")
SETTINGS = {
    "autoencoder": ["epochs=60"],
    "classifier": ["epochs=40"],
    "cnn": ["epochs=20"],
    "finetune": ["backbone=mobilenetv3-small", "height=32", "width=32", "epochs=10", "fine_epochs=3"],
    "lstm": ["epochs=25"],
    "rbm": ["epochs=10"],
    "regressor": ["epochs=60"],
    "text_to_image": ["epochs=2", "wordings=4", "judge_epochs=12"],
    "transformer": ["epochs=5"],
    "vgg16": ["probe_images=6"],
}
"""Few epochs and pictures: the demo shows the way, the defaults reach the figures."""
ROWS = 3
REPEATS = 7
TYPED_RTOL = 1e-4
_ANSWER_CHARACTERS = 12
"""Of an answer in the table: the rest of a picture tells nobody anything."""


@dataclass(frozen=True)
class Trained:
    """A published model, with Keras's answers to some held-out rows and those rows as a client of each kind sends them."""

    pipeline: Pipeline
    outcome: Outcome
    inputs: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    payload: list[Any]
    expected: list[dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """One way of calling one model: the first answer and the median time, or what was wrong."""

    answer: str
    median_ms: float
    problem: str = ""

    def __str__(self) -> str:
        return f"[red]{self.problem}[/]" if self.problem else f"{self.answer}  {self.median_ms:.1f} ms"


def main() -> None:
    console = Console(highlight=False)
    show_warnings(console)
    start = time.monotonic()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    trained = [_train(pipeline, console) for pipeline in pipelines().values()]
    console.rule("serve and call")
    with ServerProcess(DIRECTORY / "models") as server, Clients(server) as clients:
        console.print(f"serving {len(trained)} models: gRPC on {server.grpc_address}, HTTP on {server.http_url}")
        checks = {model.pipeline.family: _call(clients, model) for model in trained}
        status = server.stop()
    _print(console, trained, checks)
    problems = [check.problem for row in checks.values() for check in row.values() if check.problem]
    if status != 0:
        problems.append(f"the server ended with status {status}")
    for problem in problems:
        console.print(f"[bold red]disagreement:[/] {problem}", soft_wrap=True)
    verdict = f"{len(problems)} disagreements" if problems else "every answer agrees with Keras's"
    console.print(f"{verdict}; {time.monotonic() - start:.0f} s. Reports: {DIRECTORY}/runs/*/*/report.html")
    sys.exit(1 if problems else 0)


def _train(pipeline: Pipeline, console: Console) -> Trained:
    console.rule(pipeline.family)
    settings = SETTINGS.get(pipeline.family, ["epochs=3"])
    try:
        outcome = _run(pipeline, settings, console)
    except Unavailable as error:
        if not any(option.name == "weights" for option in options_of(pipeline.options)):
            raise
        console.print(
            f"{error}\nGoing on with --weights random: a base without knowledge, the same path.", soft_wrap=True
        )
        settings = [*settings, "weights=random"]
        outcome = _run(pipeline, settings, console)
    inputs, answers = read_samples(outcome.exported.path)
    inputs, answers = ({name: rows[:ROWS] for name, rows in arrays.items()} for arrays in (inputs, answers))
    manifest = outcome.exported.manifest
    processor = load_processor(outcome.exported.path, manifest.processor) if manifest.processor else None
    payload: list[Any]
    if pipeline.task == "text_classification" and processor:
        payload = _texts(pipeline, settings, processor, next(iter(inputs.values())))
    elif pipeline.task == "text_to_image" and processor:
        payload = _prompts(pipeline, settings, processor, inputs["noise"])
    else:
        payload = payload_of(pipeline.task, next(iter(inputs.values())))
    columns = processor.names if processor else ()
    expected = decode(pipeline.task, answers, manifest.labels, columns=columns)
    return Trained(pipeline, outcome, inputs, answers, payload, expected)


def _run(pipeline: Pipeline, settings: list[str], console: Console) -> Outcome:
    options = parse(pipeline.options, settings)
    return train(Job(pipeline, options, repository=DIRECTORY / "models", runs=DIRECTORY / "runs"), console)


def _texts(pipeline: Pipeline, settings: list[str], processor: Processor, rows: np.ndarray) -> list[str]:
    """The held-out texts that were encoded as `rows`: the split is seeded, and so the same again."""
    options = parse(pipeline.options, settings)
    texts = pipeline.split(pipeline.load(Source(), options).data, options).test.texts
    (tokens,) = processor.encode(texts).values()
    return [texts[int((tokens == row).all(axis=1).argmax())] for row in rows]


def _prompts(pipeline: Pipeline, settings: list[str], processor: Processor, noise: np.ndarray) -> list[dict[str, Any]]:
    """The held-out prompts whose seeds gave this noise, as records."""
    options = parse(pipeline.options, settings)
    test = pipeline.split(pipeline.load(Source(), options).data, options).test
    exercises: Any = pipeline.examples(test, processor, options)
    prompts = [request.prompt for request in exercises.requests]
    rows = [int((exercises.served["noise"] == row).all(axis=1).argmax()) for row in noise]
    return [
        {"prompt": prompts[row].text, "temperature": prompts[row].temperature, "seed": prompts[row].seed}
        for row in rows
    ]


def _call(clients: Clients, model: Trained) -> dict[str, Check]:
    name, task = model.pipeline.family, model.pipeline.task
    outputs = {spec.name: spec for spec in model.outcome.exported.manifest.signatures[DEFAULT_SIGNATURE].outputs}
    tensors: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "TFS gRPC": lambda: clients.tfs_grpc(name, model.inputs),
        "OIP gRPC": lambda: clients.oip_grpc(name, model.inputs),
        "TFS REST": lambda: clients.tfs_rest(name, model.inputs, outputs),
        "OIP REST": lambda: clients.oip_rest(name, model.inputs, outputs),
    }
    checks = {label: _check(f"{name} over {label}", call, model.answers) for label, call in tensors.items()}
    checks["BentoML"] = _check_typed(
        f"{name} over BentoML", lambda: clients.typed(task, name, model.payload), model.expected
    )
    return checks


def _check(label: str, call: Callable[[], dict[str, np.ndarray]], want: Mapping[str, np.ndarray]) -> Check:
    try:
        got, median_ms = _timed(call)
        if set(got) != set(want):
            return Check("", 0.0, f"{label}: expected the outputs {sorted(want)}. Received: {sorted(got)}.")
        for output, rows in want.items():
            compare(label, output, got[output], rows, tolerance_for(rows))
    except (ParityError, OSError, ValueError) as error:
        return Check("", 0.0, f"{label}: {error}")
    first = got[next(iter(want))].ravel()[0]
    return Check(f"{first:.4g}", median_ms)


def _check_typed(label: str, call: Callable[[], list[dict[str, Any]]], want: list[dict[str, Any]]) -> Check:
    try:
        got, median_ms = _timed(call)
    except OSError as error:
        return Check("", 0.0, f"{label}: {error}")
    if not _alike(got, want):
        return Check("", 0.0, f"{label}: expected {str(want[0])[:80]}. Received: {str(got[0])[:80]}.")
    first = got[0].get("label", got[0].get("is_anomaly", next(iter(got[0].values()))))
    while isinstance(first, list):
        first = first[0]
    return Check(f"{first:.4g}" if isinstance(first, float) else str(first)[:_ANSWER_CHARACTERS], median_ms)


def _alike(got: Any, want: Any) -> bool:
    """Equal, floats within rounding of each other."""
    if isinstance(want, dict):
        return isinstance(got, dict) and set(got) == set(want) and all(_alike(got[key], want[key]) for key in want)
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(_alike, got, want))
    if isinstance(want, float):
        return isinstance(got, int | float) and math.isclose(got, want, rel_tol=TYPED_RTOL, abs_tol=1e-5)
    return bool(got == want)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    answer = call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return answer, 1000 * statistics.median(times)


def _print(console: Console, trained: list[Trained], checks: Mapping[str, Mapping[str, Check]]) -> None:
    protocols = list(next(iter(checks.values())))
    table = Table(
        title=f"{ROWS} held-out rows per call: first answer and median time; parity: largest distance from Keras"
    )
    for heading in ("family", "metric", "baseline", "SavedModel", "ONNX", *protocols):
        table.add_column(heading, no_wrap=True)
    for model in trained:
        metric, outcome = model.pipeline.primary_metric, model.outcome
        parity = {
            kind: max(record.max_abs for record in outcome.exported.manifest.parity if record.format == kind)
            for kind in ("saved_model", "onnx")
        }
        table.add_row(
            model.pipeline.family,
            f"{metric} {outcome.metrics[metric]:.4g}",
            f"{outcome.baseline.metrics.get(metric, math.nan):.4g}",
            *(f"{distance:.1e}" for distance in parity.values()),
            *(str(checks[model.pipeline.family][protocol]) for protocol in protocols),
        )
    Console(highlight=False, width=None if console.width >= 180 else 180).print(table)


if __name__ == "__main__":
    main()
