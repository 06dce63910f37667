"""The one error tree of cornet, and the canonical codes it speaks.

    CornetError
    ├── InvalidArgument          the request can never work as sent
    │   ├── DataError            a file or a record does not fit what was declared
    │   └── ManifestError        manifest.json is not what it must be
    ├── NotFound
    │   └── ModelNotFound        no such model, version or label
    ├── FailedPrecondition       the request is right, the state of the server is not
    │   ├── SignatureNotFound
    │   ├── ModelNotReady        the version is known but not (or no longer) available
    │   └── ParityError          an export does not answer as the Keras model does
    ├── ResourceExhausted
    │   ├── QueueFull            the batcher refuses: try again later
    │   └── PayloadTooLarge
    ├── DeadlineExceeded
    ├── Cancelled
    ├── Unimplemented
    ├── Unavailable
    │   └── ShuttingDown
    ├── DataLoss                 a file's content is not what its hash says
    └── Internal                 a fault of ours or of the model runtime

The codes are gRPC's canonical status codes (google.rpc.Code) as plain ints, so that inner code needs no grpc. Front ends
map them to their wire's own codes in one table (`services/frontends/status.py`).

Messages say what was expected and what was received, with names and shapes. They go to clients as they are: never put
a path of the server, a traceback or another client's data in one.
"""

from typing import ClassVar

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
OUT_OF_RANGE = 11
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
DATA_LOSS = 15
UNAUTHENTICATED = 16


class CornetError(Exception):
    """Base of every error cornet raises on purpose. `str(error)` is fit for a client."""

    code: ClassVar[int] = UNKNOWN


class InvalidArgument(CornetError):
    """The request can never work as it was sent."""

    code = INVALID_ARGUMENT


class DataError(InvalidArgument):
    """A data file or record does not fit what was declared; names the file, row and column."""


class ManifestError(InvalidArgument):
    """A manifest.json that is malformed, of an unknown schema version, or contradicts the files beside it."""


class NotFound(CornetError):
    """What the request names does not exist."""

    code = NOT_FOUND


class ModelNotFound(NotFound):
    """No such model, or no such version or label of it.

    The message starts with TensorFlow Serving's words (`Servable not found for request: Latest(m)` or `Specific(m, 3)`):
    its clients and test harnesses look for them.
    """

    def __init__(self, model: str, version: int | None = None, *, known: str = "") -> None:
        wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        super().__init__(f"Servable not found for request: {wanted}" + (f". {known}" if known else ""))
        self.model = model
        self.version = version


class FailedPrecondition(CornetError):
    """The request is well formed, but the state of the server does not allow it."""

    code = FAILED_PRECONDITION


class SignatureNotFound(FailedPrecondition):
    """The model has no signature of that name."""

    def __init__(self, signature: str, known: tuple[str, ...]) -> None:
        super().__init__(f'Serving signature key "{signature}" not found. Expected one of: {", ".join(known)}.')
        self.signature = signature
        self.known = known


class ModelNotReady(FailedPrecondition):
    """The version exists but does not serve: still loading, failed to load, or unloaded."""


class ParityError(FailedPrecondition):
    """An exported format differs from the Keras model by more than the tolerance; names the output and the distance."""


class ResourceExhausted(CornetError):
    """A bound was reached."""

    code = RESOURCE_EXHAUSTED


class QueueFull(ResourceExhausted):
    """The batcher's queue has no room for the request's rows; nothing was queued."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PayloadTooLarge(ResourceExhausted):
    """The message or body is over the configured limit."""


class DeadlineExceeded(CornetError):
    """The caller's deadline passed before its rows were computed."""

    code = DEADLINE_EXCEEDED


class Cancelled(CornetError):
    """The caller went away before its rows were computed."""

    code = CANCELLED


class Unimplemented(CornetError):
    """A part of a protocol that is not served."""

    code = UNIMPLEMENTED


class Unavailable(CornetError):
    """The server cannot take the request at present."""

    code = UNAVAILABLE


class ShuttingDown(Unavailable):
    """The server drains: it finishes what runs and takes nothing new."""


class DataLoss(CornetError):
    """A file's content is not what its recorded hash says."""

    code = DATA_LOSS


class Internal(CornetError):
    """A fault of the server or of the model runtime; the cause is in the log, not in the message."""

    code = INTERNAL
