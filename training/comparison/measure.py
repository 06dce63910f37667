"""What versions answer and how fast, as they are served: through the engine, its batcher and ONNX Runtime."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.engine.engine import Engine, EngineOptions, VersionState
from services.engine.model_config import ModelConfig
from services.engine.request import InferenceRequest, Outcome
from services.engine.version_policy import Specific
from services.errors import CornetError, FailedPrecondition
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC
from training.comparison.candidates import Candidate
from training.pipeline import Arrays, Examples

CONCURRENCY = (1, 32, 64)
"""Rows asked for at a time, each by a request of its own."""
_ROUND_S = 0.05
"""A round of one candidate lasts about so long; of a slow one, one burst."""
_DISTINCT_ROWS = 256


@dataclass(frozen=True)
class Latency:
    """Of requests of one row, `concurrent` at a time: milliseconds of the median and of the slowest hundredth."""

    concurrent: int
    requests: int
    p50_ms: float
    p99_ms: float
    rows_per_s: float


@dataclass(frozen=True)
class Measured:
    """All answers of a candidate by output name, and the latencies of `serving_default` by concurrency."""

    outputs: dict[str, np.ndarray]
    latencies: tuple[Latency, ...]


def measure(candidates: Sequence[Candidate], examples: Sequence[Examples], seconds: float) -> list[Measured]:
    """Serve all candidates in this process, ask for every row, then take times for about so many seconds.

    Rows are asked for by `serving_default`, and by further signatures where the family's figures need them. Times
    are taken in rounds, every candidate in each, in an order that turns: what else the machine does meets all alike. Raises
    FailedPrecondition where a version cannot be loaded.
    """
    return asyncio.run(_measure(candidates, examples, seconds))


async def _measure(candidates: Sequence[Candidate], examples: Sequence[Examples], seconds: float) -> list[Measured]:
    async with _serving(candidates) as engine:
        outputs = [await _outputs(engine, *pair) for pair in zip(candidates, examples, strict=True)]
        requests = [
            _requests(candidate, rows.serving_inputs) for candidate, rows in zip(candidates, examples, strict=True)
        ]
        times: list[dict[int, list[float]]] = [{count: [] for count in CONCURRENCY} for _ in candidates]
        spent: list[dict[int, float]] = [dict.fromkeys(CONCURRENCY, 0.0) for _ in candidates]
        began, turn = time.perf_counter(), 0
        while turn == 0 or time.perf_counter() - began < seconds:
            for place in range(len(candidates)):
                index = (place + turn) % len(candidates)
                for count in CONCURRENCY:
                    taken, total = await _round(engine, requests[index], count, turn)
                    times[index][count] += taken
                    spent[index][count] += total
            turn += 1
    return [
        Measured(answers, tuple(_latency(count, own[count], total[count]) for count in CONCURRENCY))
        for answers, own, total in zip(outputs, times, spent, strict=True)
    ]


@asynccontextmanager
async def _serving(candidates: Sequence[Candidate]) -> AsyncIterator[Engine]:
    versions: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        versions.setdefault(candidate.name, []).append(candidate)
    configs = [
        ModelConfig(name, own[0].path.parent, Specific(tuple(sorted(each.version for each in own))))
        for name, own in versions.items()
    ]
    engine = Engine(EngineOptions(repository=Path(), poll_interval_s=0, load_retries=0), configs)
    try:
        await engine.start()
        for candidate in candidates:
            (status,) = engine.statuses(candidate.name, candidate.version)
            if status.state is not VersionState.AVAILABLE:
                found = str(status.error or status.state.name).rstrip(".")
                raise FailedPrecondition(
                    f"{candidate.title}: expected a version that can be served. Received: {found}."
                )
        yield engine
    finally:
        await engine.stop()


async def _outputs(engine: Engine, candidate: Candidate, rows: Examples) -> dict[str, np.ndarray]:
    """The outputs of `serving_default` and of what the family asks further."""
    questions = {DEFAULT_SIGNATURE: rows.serving_inputs, **candidate.pipeline.questions(rows)}
    found: dict[str, np.ndarray] = {}
    for signature, inputs in questions.items():
        found |= await _answers(engine, candidate, signature, inputs)
    return found


async def _answers(engine: Engine, candidate: Candidate, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs for all rows, in batches of the size that the server merges."""
    rows = len(next(iter(inputs.values())))
    step = candidate.manifest.batching.max_batch_rows
    parts = []
    for start in range(0, rows, step):
        batch = {name: values[start : start + step] for name, values in inputs.items()}
        request = InferenceRequest(candidate.name, batch, candidate.version, signature=signature)
        parts.append((await engine.infer(request)).outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _requests(candidate: Candidate, inputs: Arrays) -> list[InferenceRequest]:
    """One request per row, for rows evenly spread; a text is as long as it would be by itself."""
    signature = candidate.manifest.signatures[DEFAULT_SIGNATURE]
    free = {spec.name for spec in signature.inputs if DYNAMIC in (spec.shape or ())[1:]}
    count = len(next(iter(inputs.values())))
    chosen = np.unique(np.linspace(0, count - 1, _DISTINCT_ROWS).round().astype(int))
    return [
        InferenceRequest(
            candidate.name,
            {
                name: _unpadded(values[row : row + 1]) if name in free else values[row : row + 1]
                for name, values in inputs.items()
            },
            candidate.version,
        )
        for row in chosen
    ]


def _unpadded(row: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(row.any(axis=tuple(axis for axis in range(row.ndim) if axis != 1)))
    return row[:, : int(used[-1]) + 1 if len(used) else 1]


async def _round(
    engine: Engine, requests: Sequence[InferenceRequest], concurrent: int, turn: int
) -> tuple[list[float], float]:
    """Bursts of that many requests for a while: seconds of each request, and of all bursts together."""
    taken: list[float] = []
    total, first = 0.0, turn * concurrent
    while True:
        burst = [requests[(first + index) % len(requests)] for index in range(concurrent)]
        own, elapsed = await _burst(engine, burst)
        taken += own
        total += elapsed
        first += concurrent
        if total >= _ROUND_S:
            return taken, total


async def _burst(engine: Engine, requests: Sequence[InferenceRequest]) -> tuple[list[float], float]:
    """Submit all at once and wait for the last. Raises what a request failed with."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    taken: list[float] = []
    began = time.perf_counter()

    def done(outcome: Outcome) -> None:
        taken.append(time.perf_counter() - began)
        if isinstance(outcome, CornetError) and not finished.done():
            finished.set_exception(outcome)
        elif len(taken) == len(requests) and not finished.done():
            finished.set_result(None)

    for request in requests:
        engine.submit(request, done)
    await finished
    return taken, time.perf_counter() - began


def _latency(concurrent: int, taken: Sequence[float], total: float) -> Latency:
    p50, p99 = np.percentile(taken, (50, 99)) * 1e3
    return Latency(concurrent, len(taken), float(p50), float(p99), len(taken) / total)
