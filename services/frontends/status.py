"""Errors at the edge: one table from cornet's canonical codes to the status codes of each wire.

Sources: google/rpc/code.proto's HTTP mapping as TensorFlow Serving applies it (`util/json_tensor.h`,
`net_http`), Triton's `HttpCodeFromError`, and RFC 9110 for 413 and 429.
"""

from enum import Enum

from services import errors
from services.errors import CornetError, Internal, ModelNotReady, PayloadTooLarge, QueueFull, SignatureNotFound


class Dialect(Enum):
    """Whose status codes an answer uses."""

    TFS = "tensorflow-serving"
    OIP = "open-inference-protocol"
    TYPED = "typed"


_HTTP: dict[int, int] = {
    errors.CANCELLED: 499,
    errors.UNKNOWN: 500,
    errors.INVALID_ARGUMENT: 400,
    errors.DEADLINE_EXCEEDED: 504,
    errors.NOT_FOUND: 404,
    errors.ALREADY_EXISTS: 409,
    errors.PERMISSION_DENIED: 403,
    errors.RESOURCE_EXHAUSTED: 429,
    errors.FAILED_PRECONDITION: 400,
    errors.ABORTED: 409,
    errors.OUT_OF_RANGE: 400,
    errors.UNIMPLEMENTED: 501,
    errors.INTERNAL: 500,
    errors.UNAVAILABLE: 503,
    errors.DATA_LOSS: 500,
    errors.UNAUTHENTICATED: 401,
}


def to_cornet(error: Exception) -> CornetError:
    """The error itself, or for one that nobody foresaw an Internal without its text, which is for the log alone.

    It is then the cause of what is returned: `services.telemetry.exchange` logs it with the request's id.
    """
    if isinstance(error, CornetError):
        return error
    internal = Internal("The server failed unexpectedly; its log has the cause.")
    internal.__cause__ = error
    return internal


def grpc_code(error: CornetError, dialect: Dialect) -> int:
    """The gRPC status code of an error.

    TensorFlow Serving says UNAVAILABLE for a full queue, and of a version that does not serve only that it is not found;
    Triton says UNAVAILABLE for such a version, and a signature is a parameter there: another value would have done.
    """
    if dialect is Dialect.TFS and isinstance(error, QueueFull):
        return errors.UNAVAILABLE
    if dialect is Dialect.OIP and isinstance(error, SignatureNotFound):
        return errors.INVALID_ARGUMENT
    if isinstance(error, ModelNotReady) and dialect is not Dialect.TYPED:
        return errors.NOT_FOUND if dialect is Dialect.TFS else errors.UNAVAILABLE
    return error.code


def http_status(error: CornetError, dialect: Dialect) -> int:
    """The HTTP status of an error. The typed dialect says 503 where a model does not serve yet: its clients may try again."""
    if isinstance(error, PayloadTooLarge):
        return 413
    if dialect is Dialect.TYPED and isinstance(error, ModelNotReady):
        return 503
    return _HTTP[grpc_code(error, dialect)]
