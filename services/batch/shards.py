"""One shard from its place in the input to its part in the output: the code that both engines run.

    session = open_session(job)            # once per process that computes: model, encoder, output
    result = process(session, shard)       # its part is in place when this returns

The local engine takes the same steps apart, to decode in other processes: `read_chunks` and `decode`, then `compute` per
batch in the order they come, then `finish`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np
import pyarrow as pa

from services.batch.decoding import BadRecord, Batch, Decoded, Encoder, decode, read_chunks
from services.batch.job import Job, Shard, ShardResult, StageSeconds
from services.batch.model import Card, open_backend, open_encoder, read_card
from services.batch.output import schema_of, to_batch, write_part
from services.batch.storage import Storage
from services.engine.backend import Backend
from services.engine.merging import Run
from services.errors import InvalidArgument
from services.manifest import ONNX_FILE
from services.processing.answers import decode as answers
from services.tensors import Signature

_NOT_FINITE = "expected finite numbers. The model gave NaN or an infinity in {}."


@dataclass(frozen=True, slots=True)
class Session:
    """What a process that computes holds open for a job."""

    job: Job
    backend: Backend
    encoder: Encoder
    card: Card
    storage: Storage
    schema: pa.Schema

    def close(self) -> None:
        self.backend.close()


@dataclass(slots=True)
class Work:
    """A shard that is being computed: the answers and bad records so far."""

    shard: Shard
    batches: list[pa.RecordBatch] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    seconds: StageSeconds = field(default_factory=StageSeconds)


def open_session(job: Job) -> Session:
    """Load the model and what encodes for it. Raises CornetError."""
    backend = open_backend(job.model, job.providers, job.intra_op_threads)
    signature = backend.signatures[job.model.signature]
    card = read_card(job.model.path)
    schema = schema_of(signature.outputs, job.source, job.metadata, labelled=_is_labelled(job, card))
    encoder = open_encoder(job.model, signature)
    return Session(job, backend, encoder, card, Storage(job.output), schema)


def process(session: Session, shard: Shard) -> ShardResult:
    """All of it in this process, one chunk decoded in a thread while the one before is computed. Raises CornetError."""
    work = Work(shard)
    with ThreadPoolExecutor(1) as ahead:
        for decoded in _read_ahead(session, work, ahead):
            work.seconds.add(decoded.seconds)
            for batch in decoded.batches:
                compute(session, work, batch)
    return finish(session, work)


def _read_ahead(session: Session, work: Work, pool: ThreadPoolExecutor) -> Iterator[Decoded]:
    """A shard's chunks, each handed to the pool before the one in front of it is awaited."""
    source, rows = session.job.source, session.job.batch_rows
    chunks = read_chunks(source, work.shard, rows)
    previous: Future[Decoded] | None = None
    while True:
        began = perf_counter()
        chunk = next(chunks, None)
        work.seconds.read += perf_counter() - began
        following = None if chunk is None else pool.submit(decode, source, session.encoder, chunk, rows)
        if previous is not None:
            yield previous.result()
        if following is None:
            return
        previous = following


def compute(session: Session, work: Work, batch: Batch) -> int:
    """Run a batch and keep its answers. Returns how many of its records are bad.

    Raises CornetError for what is not the records' fault.
    """
    began = perf_counter()
    before = len(work.bad)
    work.bad += batch.bad
    if batch.keys:
        keys, outputs = _answer(session.backend, session.job.model.signature, batch, work.bad)
        labels = _labels(session.card, outputs) if keys and _is_labelled(session.job, session.card) else []
        work.batches.append(to_batch(session.schema, keys, outputs, labels))
    work.seconds.compute += perf_counter() - began
    return len(work.bad) - before


def finish(session: Session, work: Work) -> ShardResult:
    """Put the shard's part in place."""
    began = perf_counter()
    write_part(session.storage, session.schema, work.shard, work.batches, work.bad)
    work.seconds.write += perf_counter() - began
    rows = sum(batch.num_rows for batch in work.batches)
    return ShardResult(work.shard.index, rows, len(work.bad), work.seconds)


def _answer(backend: Backend, signature: str, batch: Batch, bad: list[BadRecord]) -> tuple[list, dict[str, np.ndarray]]:
    """Keys and outputs of the records that the model answers with numbers; the others are added to `bad`."""
    keys, inputs = batch.keys, batch.inputs
    run = partial(backend.run, signature)
    try:
        outputs = run(inputs, ())
    except InvalidArgument:
        good = np.array([_accepted(run, inputs, row, key, bad) for row, key in enumerate(keys)])
        if not good.any():
            return [], _none(backend.signatures[signature])
        keys = [key for key, kept in zip(keys, good, strict=True) if kept]
        outputs = run({name: array[good] for name, array in inputs.items()}, ())
    return _finite(keys, outputs, bad)


def _accepted(run: Run, inputs: dict[str, np.ndarray], row: int, key: int | str, bad: list[BadRecord]) -> bool:
    """Whether the model takes a row alone."""
    try:
        run({name: array[row : row + 1] for name, array in inputs.items()}, ())
    except InvalidArgument as error:
        bad.append(BadRecord(key, str(error)))
        return False
    return True


def _none(signature: Signature) -> dict[str, np.ndarray]:
    return {
        spec.name: np.empty((0, *(max(axis, 0) for axis in (spec.shape or ())[1:])), spec.dtype.numpy)
        for spec in signature.outputs
    }


def _finite(keys: list, outputs: dict[str, np.ndarray], bad: list[BadRecord]) -> tuple[list, dict[str, np.ndarray]]:
    good = np.ones(len(keys), bool)
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            finite = np.isfinite(array).reshape(len(keys), -1).all(axis=1)
            bad += [BadRecord(keys[row], _NOT_FINITE.format(name)) for row in np.flatnonzero(good & ~finite)]
            good &= finite
    if good.all():
        return keys, outputs
    kept = [key for key, keep in zip(keys, good, strict=True) if keep]
    return kept, {name: array[good] for name, array in outputs.items()}


def _is_labelled(job: Job, card: Card) -> bool:
    """Whether rows get the name of a class: the task's own function gives classes, those of further signatures do not."""
    return job.model.file == ONNX_FILE and card.task.endswith("classification") and bool(card.labels)


def _labels(card: Card, outputs: dict[str, np.ndarray]) -> list[str]:
    """The most probable class of each row, by the rule of the typed endpoints."""
    return [answer["label"] for answer in answers(card.task, outputs, card.labels, top=1)]
