"""One request from its arrival to its answer, as telemetry sees it, whatever the protocol."""

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from itertools import count
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from services.errors import DATA_LOSS, INTERNAL, UNKNOWN, CornetError
from services.telemetry.histogram import RequestSeries
from services.telemetry.log import get_logger

NAN = float("nan")
FULL = RequestSeries.FULL

if TYPE_CHECKING:
    from services.telemetry.metrics import Metrics

Headers: TypeAlias = Mapping[bytes, bytes] | Sequence[tuple[str, str | bytes]]
"""HTTP headers or gRPC metadata; names are in lower case."""

REQUEST_ID = "x-request-id"

CURRENT: ContextVar["Exchange | None"] = ContextVar("exchange", default=None)
"""The request a task works for, where its front end has somebody else's code between itself and the engine."""

_FAULTS = frozenset((UNKNOWN, INTERNAL, DATA_LOSS))
"""Codes that say that the server is at fault: those are logged."""

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_OWN_ID = token_hex(6).encode() + b"-%x"
_NUMBERS = count(1)

_log = get_logger("cornet.request")


class Asked(Protocol):
    """An inference's request, as the engine got it."""

    @property
    def signature(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...


class Answer(Protocol):
    """What an inference's response says of its way through the engine."""

    @property
    def queue_us(self) -> float: ...
    @property
    def compute_us(self) -> float: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def outputs(self) -> Mapping[str, np.ndarray]: ...


class Exchange:
    """Made when a request arrives; `finish` ends it, once, and counts it.

        exchange = Exchange(metrics, "tfs-grpc", "Predict", metadata, len(data))
        exchange.decoded("regressor")           # the request is read; the engine's turn
        exchange.inferred(response, 3)          # the engine's answer is there; it is encoded next
        exchange.finish(errors.OK, len(answer))

    `model` and `version` are what the front end found out, `request` what it made of the message, for who logs it, and
    `drawn` whether its log wants it, None where that was not asked yet. Where it never calls `decoded` and `inferred`, the
    request has no phases. Times are `perf_counter` seconds.

    gRPC requests that one turn of the event loop read have arrived with it, all at once (`arrivals`): `started_at` is the
    same for them, and one whose turn came later has that as its `begun_at`, so that decoding those before it is no part of
    its own decoding.
    """

    model = ""
    version: int | None = None
    drawn: bool | None = None
    begun_at: float | None = None
    request: Asked | None = None
    response: Answer | None = None
    code = -1
    received_bytes = 0
    sent_bytes = 0
    decoded_at = inferred_at = ended_at = NAN
    _request_id = ""

    def __init__(
        self, metrics: "Metrics", protocol: str, operation: str, headers: Headers, received_bytes: int = 0
    ) -> None:
        self.metrics = metrics
        self.protocol = protocol
        self.operation = operation
        self.headers = headers
        if received_bytes:
            self.received_bytes = received_bytes
        metrics.arrived[protocol] += 1
        self.started_at = perf_counter()

    def decoded(self, model: str) -> None:
        """The request is read, and asks for `model`."""
        self.model = model
        self.decoded_at = perf_counter()

    def inferred(self, response: Answer, version: int) -> None:
        """The engine has answered with `version`."""
        self.response = response
        self.version = version
        self.inferred_at = perf_counter()

    def finish(self, code: int, sent_bytes: int = 0) -> None:
        """The answer, of canonical `code`, is ready to be sent: count the request."""
        self.ended_at = ended_at = perf_counter()
        metrics = self.metrics
        key = (self.protocol, self.operation, self.model, self.version, code)
        series = metrics.series.get(key) or metrics.admit(*key)
        response = self.response
        if response is None:
            decode_s = queue_us = compute_us = NAN
        else:
            decode_s, queue_us, compute_us = self.decode_s, response.queue_us, response.compute_us
        kept = series.kept
        arrived, inferred = self.started_at, self.inferred_at
        kept += (arrived, decode_s, inferred, ended_at, queue_us, compute_us, self.received_bytes, sent_bytes)
        if len(kept) >= FULL:
            series.settle()
        if metrics.listeners:
            self.code, self.sent_bytes = code, sent_bytes
            for listener in metrics.listeners:
                listener(self)

    @property
    def decode_s(self) -> float:
        return self.decoded_at - (self.started_at if self.begun_at is None else self.begun_at)

    @property
    def phases(self) -> tuple[float, float, float, float] | None:
        """Seconds of decode, queue, compute and encode; None for what was no inference, or got no answer of the engine."""
        response = self.response
        if response is None:
            return None
        return (
            self.decode_s,
            response.queue_us * 1e-6,
            response.compute_us * 1e-6,
            self.ended_at - self.inferred_at,
        )

    @property
    def request_id(self) -> str:
        """The client's `x-request-id` where it is short and plain, else one of ours."""
        if not self._request_id:
            self._request_id = fit_request_id(self.header(REQUEST_ID)) or new_request_id().decode()
        return self._request_id

    def header(self, name: str) -> str | None:
        """A header or metadata entry by its lower-case name; None where there is none, or one that is not text."""
        headers = self.headers
        if isinstance(headers, Mapping):
            raw = headers.get(name.encode())
            return None if raw is None else raw.decode("latin-1")
        return next((value for key, value in headers if key == name and isinstance(value, str)), None)

    def report(self, error: CornetError) -> None:
        """`report` with what is known of this request."""
        if error.code in _FAULTS:
            where = {"protocol": self.protocol, "method": self.operation, "model": self.model}
            report(error, request_id=self.request_id, **where)


def fit_request_id(asked: str | None) -> str:
    """The client's `x-request-id` where it is short and plain, else ""."""
    return asked if asked and _SANE_ID.fullmatch(asked) else ""


def new_request_id() -> bytes:
    """An id of our own, of no other request, as it goes over the wire: written that way it takes a third of the time."""
    return _OWN_ID % next(_NUMBERS)


def report(error: CornetError, **fields: str) -> None:
    """Log the error that ends a request, and its cause, where the fault is the server's; others are the client's to see."""
    if error.code in _FAULTS:
        _log.error("request failed", cause=error.__cause__, **fields, reason=str(error))
