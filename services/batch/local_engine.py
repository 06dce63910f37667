"""The engine for one machine: records are decoded in worker processes while this one runs the model.

    feeder thread      reads the input, hands chunks to the workers           bounded by `_Pipeline.slots`
    worker processes   decode and encode                                      (a thread of this process for cheap kinds)
    this thread        runs the model on the batches, in the input's order
    writer thread      puts finished shards in place                          at most two waiting

Memory is bounded by the chunks in flight and the answers of three shards, whatever the size of the input.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from queue import SimpleQueue
from time import perf_counter

from services.batch.decoding import Chunk, Decoded, Encoder, decode, read_chunks
from services.batch.job import Job, JobOptions, Report, Shard, ShardResult, Source
from services.batch.shards import Session, Work, compute, finish, open_session
from services.cpus import available_cpus
from services.errors import Internal

WORTH_PROCESSES = 1_000_000
"""Rows of a table above which starting processes costs less than decoding beside the model, given CPUs to spare."""
_SPARE_CPUS = 2
_WAITING_WRITES = 2
_HEAVY = {"image", "text"}

_worker: tuple[Source, Encoder, int] | None = None
"""Of a worker process: what it decodes with."""


def run_shards(job: Job, shards: Sequence[Shard], options: JobOptions, report: Report) -> None:
    """See `RunShards`."""
    workers = decoding_workers(job.source.kind, sum(shard.rows for shard in shards), options.workers)
    session = open_session(job)
    try:
        with _decoders(session, workers) as pool:
            _Pipeline(session, pool, workers, report).run(shards)
    except BrokenProcessPool as error:
        raise Internal(
            "A decoding process ended before its work was done (out of memory, or killed). Run the job again: it "
            "continues; fewer --workers or --batch-rows need less memory."
        ) from error
    finally:
        session.close()


def decoding_workers(kind: str, rows: int, asked: int | None) -> int:
    """How many processes decode; 0 is a thread of this one, which is quicker where decoding is cheap and the table short."""
    if asked is not None:
        return asked
    cpus = available_cpus()
    return cpus if kind in _HEAVY or (rows > WORTH_PROCESSES and cpus > _SPARE_CPUS) else 0


class _Pipeline:
    """One run over the shards. `slots` bounds the chunks that are read and not yet computed."""

    def __init__(self, session: Session, pool: Executor, workers: int, report: Report) -> None:
        self._session = session
        self._pool = pool
        self._in_process = workers == 0
        self._report = report
        self._slots = threading.Semaphore(4 * workers + 2)
        self._ready: SimpleQueue[tuple[Shard, Future[Decoded] | None, float] | BaseException | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._writes: deque[Future[ShardResult]] = deque()

    def run(self, shards: Sequence[Shard]) -> None:
        feeder = threading.Thread(target=self._feed, args=(shards,), name="cornet-batch-feeder", daemon=True)
        feeder.start()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="cornet-batch-writer") as writer:
                self._compute(writer)
                self._settle(0)
        finally:
            self._stopped.set()
            self._slots.release()
            feeder.join()
            self._pool.shutdown(cancel_futures=True)

    def _feed(self, shards: Sequence[Shard]) -> None:
        try:
            for shard in shards:
                began = perf_counter()
                for chunk in read_chunks(self._session.job.source, shard, self._session.job.batch_rows):
                    read = perf_counter() - began
                    self._slots.acquire()
                    if self._stopped.is_set():
                        return
                    self._ready.put((shard, self._submit(chunk), read))
                    began = perf_counter()
                self._ready.put((shard, None, perf_counter() - began))
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that computes
            self._ready.put(error)

    def _submit(self, chunk: Chunk) -> Future[Decoded]:
        if self._in_process:
            job = self._session.job
            return self._pool.submit(decode, job.source, self._session.encoder, chunk, job.batch_rows)
        return self._pool.submit(_decode, chunk)

    def _compute(self, writer: ThreadPoolExecutor) -> None:
        work: Work | None = None
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            shard, decoding, read = item
            work = work or Work(shard)
            work.seconds.read += read
            if decoding is not None:
                self._chunk(work, decoding.result())
                self._slots.release()
            else:
                self._writes.append(writer.submit(finish, self._session, work))
                work = None
                self._settle(_WAITING_WRITES)

    def _chunk(self, work: Work, decoded: Decoded) -> None:
        work.seconds.add(decoded.seconds)
        for batch in decoded.batches:
            errors = compute(self._session, work, batch)
            self._report.advanced(len(batch.keys) + len(batch.bad), errors)

    def _settle(self, waiting: int) -> None:
        """Report what has been written, and wait until no more than that many shards are not."""
        while self._writes and (len(self._writes) > waiting or self._writes[0].done()):
            self._report.finished(self._writes.popleft().result())


def _decoders(session: Session, workers: int) -> Executor:
    """Processes are spawned: the parent has threads, which a fork would copy half of."""
    if workers == 0:
        return ThreadPoolExecutor(1, thread_name_prefix="cornet-batch-decoder")
    job = session.job
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(job.source, session.encoder, job.batch_rows),
    )


def _start_worker(source: Source, encoder: Encoder, batch_rows: int) -> None:
    global _worker  # noqa: PLW0603  # a worker process has one job, and its tasks no other way to it
    _worker = source, encoder, batch_rows
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they hold both ends of their queue: nothing else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _decode(chunk: Chunk) -> Decoded:
    if _worker is None:
        raise RuntimeError("a worker is started with _start_worker")
    source, encoder, batch_rows = _worker
    return decode(source, encoder, chunk, batch_rows)
