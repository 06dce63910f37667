"""A job from its options to its summary: resolve, compare with what is there, plan, run what is missing, sum up."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from services.batch.columns import Wanted
from services.batch.job import Job, JobOptions, ModelRef, Plan, RunShards, ShardResult, Source, StageSeconds
from services.batch.model import Card, open_encoder, read_card, resolve
from services.batch.output import (
    ERROR_PARTS,
    ERRORS_FILE,
    JOB_FILE,
    JOB_FOLDER,
    ROWS,
    SUMMARY_FILE,
    count_errors,
    done_shards,
    merge_errors,
)
from services.batch.plan import digest_of, find, make_plan, read_plan
from services.batch.storage import Storage, absolute
from services.batch.summary import Status, Summary, shares
from services.errors import FailedPrecondition, InvalidArgument
from services.processing.series import SeriesProcessor
from services.tensors import DEFAULT_SIGNATURE

LOCK_FILE = ".cornet-lock"
CHECKED_RECORDS = 100
"""Records before `max_error_rate` is looked at while a job runs; at its end it always is."""
_SHARD_ROWS = {"image": 1024}
_SHARD_ROWS_OF_TABLES = 16_384

Progress = Callable[[int, int, int], None]
"""Called with (records done, bad ones among them, records in all), earlier runs included."""


class OutputDiffers(FailedPrecondition):
    """The output holds another job's rows: another model, input or options."""


class ErrorRateExceeded(FailedPrecondition):
    """More bad records than allowed. What was done is in place, and `summary` says how much."""

    summary: Summary


def execute(options: JobOptions, progress: Progress | None = None) -> Summary:
    """Run a job to its end. Raises CornetError for what keeps it from running, ErrorRateExceeded, OutputDiffers."""
    check(options)
    model = resolve(options.repository, options.model, options.signature)
    storage = Storage(options.output)
    with _locked(storage):
        storage.sweep("", ROWS, JOB_FOLDER, ERROR_PARTS)
        job, plan = _prepare(options, model, storage)
        done = done_shards(storage)
        tally = _Tally(plan, done, count_errors(storage, done), options.max_error_rate, progress)
        began = perf_counter()
        stopped: ErrorRateExceeded | None = None
        try:
            tally.check()
            missing = [shard for shard in plan.shards if shard.index not in done]
            if missing:
                _engine(options)(job, missing, options, tally)
            tally.check(at_end=True)
        except ErrorRateExceeded as error:
            stopped = error
        merge_errors(storage, job.metadata, done_shards(storage))
        status: Status = "complete" if stopped is None else "error_rate_exceeded"
        summary = _summarize(options, model, plan, storage, tally, perf_counter() - began, status)
        storage.put(SUMMARY_FILE, json.dumps(asdict(summary), indent=2).encode() + b"\n")
        if stopped is not None:
            stopped.summary = summary
            raise stopped
        return summary


def check(options: JobOptions) -> None:
    """Raises InvalidArgument for numbers that make no sense."""
    for name, least in (("batch_rows", 0), ("shard_rows", 0), ("workers", 0), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InvalidArgument(f"{name}: expected at least {least}. Received: {value}.")
    rate = options.max_error_rate
    if rate is not None and not 0 <= rate <= 1:
        raise InvalidArgument(f"max_error_rate: expected a share between 0 and 1. Received: {rate}.")


def _engine(options: JobOptions) -> RunShards:
    if options.engine == "ray":
        from services.batch import ray_engine

        return ray_engine.run_shards
    from services.batch import local_engine

    return local_engine.run_shards


def _prepare(options: JobOptions, model: ModelRef, storage: Storage) -> tuple[Job, Plan]:
    """The job and its plan: those of an earlier run where it had the same arguments, else made and stored."""
    card = read_card(model.path)
    encoder = open_encoder(model)
    kind = getattr(encoder, "kind", "tensors")
    batch_rows = options.batch_rows or card.batch_rows
    shard_rows = options.shard_rows or _SHARD_ROWS.get(kind, _SHARD_ROWS_OF_TABLES)
    found = find(options.input, kind, storage)
    identity = _identity(options, model, card, batch_rows, shard_rows)
    stored = _stored(storage, identity, overwrite=options.overwrite)
    if stored is not None:
        digest = digest_of(found, options.limit)
        _compare({"input files": stored["digest"]}, {"input files": digest})
        plan = read_plan(storage, Source(**_tuples(stored["source"])), digest)
    else:
        window = encoder.window if isinstance(encoder, SeriesProcessor) else 1
        wanted = Wanted(kind, encoder.names, window, options.key, options.column)
        plan = make_plan(found, wanted, storage, shard_rows, options.limit)
        record = {"arguments": identity, "digest": plan.digest, "source": asdict(plan.source)}
        storage.put(JOB_FILE, json.dumps(record, indent=2).encode() + b"\n")
    metadata = {
        "model": model.name,
        "version": str(model.version),
        "signature": model.signature,
        "sha256": model.sha256,
        "options": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
    }
    return Job(model, plan.source, options.output, batch_rows, options.providers, metadata=metadata), plan


def _identity(options: JobOptions, model: ModelRef, card: Card, batch_rows: int, shard_rows: int) -> dict[str, Any]:
    """What an output's rows depend on, in plain values. Engine, workers and error rate are not among it."""
    manifest = card.manifest
    processor = None if manifest is None or manifest.processor is None else asdict(manifest.processor)
    assets = {} if manifest is None or processor is None else {n: manifest.files.get(n) for n in processor["files"]}
    content = json.dumps([processor, assets, card.labels], sort_keys=True, default=list)
    return {
        "model": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "processing": hashlib.sha256(content.encode()).hexdigest(),
        "input": absolute(options.input),
        "key": options.key,
        "column": options.column,
        "limit": options.limit,
        "batch_rows": batch_rows,
        "shard_rows": shard_rows,
        "providers": list(options.providers),
        **(
            {"signature": model.signature} if model.signature != DEFAULT_SIGNATURE else {}
        ),  # as before there were others
    }


def _stored(storage: Storage, identity: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """What an earlier run has written of itself; None for a fresh output. Raises OutputDiffers."""
    if overwrite:
        for name in (JOB_FOLDER, ROWS, ERRORS_FILE, SUMMARY_FILE):
            storage.delete(name)
        return None
    content = storage.read(JOB_FILE)
    if content is None:
        if done_shards(storage):
            raise OutputDiffers(f"{storage.url} holds rows of an unknown job. Choose another output, or --overwrite.")
        return None
    stored: dict[str, Any] = orjson.loads(content)
    _compare(stored["arguments"], identity)
    return stored


def _compare(before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [f"{name} {before.get(name)!r}, now {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changed:
        raise OutputDiffers(
            f"The output was begun with other arguments: {'; '.join(changed)}. Choose another output, or --overwrite."
        )


def _tuples(source: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in source.items()}


@contextmanager
def _locked(storage: Storage) -> Iterator[None]:
    """Keep a second run away from a local output; the lock goes with the process, however it ends."""
    if not storage.is_local:
        yield
        return
    path = Path(storage.at(LOCK_FILE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidArgument(
            f"Expected a folder to write to. Received: {storage.url}, which is or is in a file."
        ) from None
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FailedPrecondition(f"Another run is writing to {storage.url}.") from None
        yield


class _Tally:
    """Counts what the engine reports, tells the progress, and stops the job where too many records are bad."""

    def __init__(
        self, plan: Plan, done: set[int], errors: int, max_error_rate: float | None, progress: Progress | None
    ) -> None:
        self.before = sum(shard.rows for shard in plan.shards if shard.index in done)
        self.seen, self.errors, self.total = self.before, errors, plan.rows
        self.seconds = StageSeconds()
        self._max = max_error_rate
        self._progress = progress or (lambda _done, _errors, _total: None)
        self._progress(self.seen, self.errors, self.total)

    def advanced(self, records: int, errors: int) -> None:
        self.seen += records
        self.errors += errors
        self._progress(self.seen, self.errors, self.total)
        self.check()

    def finished(self, result: ShardResult) -> None:
        self.seconds.add(result.seconds)

    def check(self, *, at_end: bool = False) -> None:
        if self._max is None or (self.seen < CHECKED_RECORDS and not at_end):
            return
        if self.seen and self.errors / self.seen > self._max:
            raise ErrorRateExceeded(
                f"Expected at most {self._max:.2%} bad records. Received: {self.errors} of {self.seen} "
                f"({self.errors / self.seen:.2%}); {ERRORS_FILE} says why."
            )


def _summarize(
    options: JobOptions, model: ModelRef, plan: Plan, storage: Storage, tally: _Tally, seconds: float, status: Status
) -> Summary:
    done = done_shards(storage)  # not what was reported: a job that is stopped still finishes the shards being written
    written = sum(shard.rows for shard in plan.shards if shard.index in done)
    errors = count_errors(storage, done)
    computed = written - tally.before
    return Summary(
        status=status,
        model=model.name,
        version=model.version,
        sha256=model.sha256,
        input=options.input,
        output=options.output,
        engine=options.engine,
        records=plan.rows,
        rows=written - errors,
        errors=errors,
        computed=computed,
        seconds=round(seconds, 3),
        rows_per_s=round(computed / seconds, 3) if computed else 0.0,
        model_busy=round(tally.seconds.compute / seconds, 4) if seconds else 0.0,
        stages=shares(tally.seconds),
    )
