"""From the loop's thread to the files: sampling, a bounded queue, and the thread that writes."""

from collections.abc import Callable, MutableMapping
from queue import Empty, SimpleQueue
from random import Random
from threading import Event, Thread
from time import monotonic

from services.errors import OK
from services.telemetry.exchange import Exchange
from services.telemetry.log import get_logger
from services.telemetry.request_log.folder import Folder
from services.telemetry.request_log.options import RequestLogOptions
from services.telemetry.request_log.records import Record, record

MAX_WAITING_RECORDS = 4096
MAX_WAITING_BYTES = 32 * 1024 * 1024

_GATHER_S = 0.05
"""How long the first record waits for others: one write for many costs the loop fewer turns at Python's lock."""
_CHUNK_RECORDS = 64
_RETRY_S = 1.0
_CLOSE_S = 5.0

_log = get_logger("cornet.request_log")


class RequestLog:
    """The log of one process. `listen` is a listener of `Metrics`, `draw` its draw; `close`, once, ends it.

    `counts` gets what became of the sampled records: `written` (a reader can read them), `queue_full` (dropped: they came
    faster than the disk took them), `failed` (dropped: the disk or the format refused them). `random` decides who is
    sampled: a number in [0, 1) per request. The thread begins with the first record.
    """

    def __init__(
        self,
        options: RequestLogOptions,
        counts: MutableMapping[str, int],
        *,
        random: Callable[[], float] | None = None,
    ) -> None:
        """Raises FailedPrecondition where the folder cannot be written, or pyarrow is missing for Parquet."""
        self._folder = Folder(options)
        self._folder.check()
        for outcome in ("written", "queue_full", "failed"):
            counts.setdefault(outcome, 0)
        self._counts = counts
        self._options = options
        self._random = random or Random().random  # noqa: S311  # a sample is no secret
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._put = self._put_bytes = 0  # the loop's numbers; their likes below are the thread's: no lock is needed
        self._taken = self._taken_bytes = 0
        self._thread: Thread | None = None
        self._closing = Event()
        self._failing = False
        self._retry_at = 0.0

    def draw(self, exchange: Exchange) -> bool:
        """Whether a request is sampled; it stays so."""
        exchange.drawn = drawn = self._random() < self._options.rate
        return drawn

    def listen(self, exchange: Exchange) -> None:
        """Log an ended request, if it is sampled. Never blocks."""
        failed = exchange.code != OK
        options, drawn = self._options, exchange.drawn
        if not (self.draw(exchange) if drawn is None else drawn) and not (failed and options.errors):
            return
        if exchange.request is None and not failed:
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="cornet-request-log", daemon=True)
            self._thread.start()
        waiting_bytes = self._put_bytes - self._taken_bytes
        if (
            self._put - self._taken >= MAX_WAITING_RECORDS
            or waiting_bytes >= MAX_WAITING_BYTES
            or self._closing.is_set()
        ):
            self._counts["queue_full"] += 1
            return
        made = record(exchange, options.payload_bytes)
        self._put += 1
        self._put_bytes += made.size
        self._queue.put(made)

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what waits and finish the file; give up after `timeout_s`. Blocks: call it in a thread."""
        self._closing.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error("the request log did not end in time", waiting=self._put - self._taken)

    def _run(self) -> None:
        self._attempt(self._tidy)
        going, backlog = True, False
        while going:
            chunk: list[Record] = []
            if not backlog:
                try:
                    first = self._queue.get(timeout=self._folder.seconds_left())
                except Empty:
                    self._attempt(lambda: self._folder.finish(only_due=True))
                    continue
                if first is None:
                    break
                chunk.append(first)
                self._closing.wait(_GATHER_S)
            going = self._take(chunk)
            if chunk:
                self._write(chunk)
            backlog = len(chunk) == _CHUNK_RECORDS
        self._attempt(self._folder.finish)

    def _take(self, chunk: list[Record]) -> bool:
        """Fill a chunk with what waits; False where the end was met."""
        while len(chunk) < _CHUNK_RECORDS:
            try:
                taken = self._queue.get_nowait()
            except Empty:
                break
            if taken is None:
                return False
            chunk.append(taken)
        return True

    def _write(self, chunk: list[Record]) -> None:
        if self._failing and monotonic() < self._retry_at:
            self._counts["failed"] += len(chunk)
        elif self._attempt(lambda: self._folder.write(chunk)) and self._failing:
            self._failing = False
            _log.info("the request log is written again")
        self._taken += len(chunk)
        self._taken_bytes += sum(one.size for one in chunk)

    def _tidy(self) -> None:
        finished = self._folder.tidy()
        if finished:
            _log.info("finished what a process left of its request log", files=finished)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do what may fail, count what became of the records, and log when failing begins. Whether it went well."""
        folder, counts = self._folder, self._counts
        try:
            work()
        except Exception as error:  # noqa: BLE001  # reported; requests are served whatever becomes of their log
            self._retry_at = monotonic() + _RETRY_S
            if not self._failing:
                _log.error("the request log cannot be written; its records are dropped", cause=error)
            self._failing = True
            return False
        finally:
            counts["written"] += folder.written
            counts["failed"] += folder.lost
            folder.written = folder.lost = 0
        return True
