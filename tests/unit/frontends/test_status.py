import pytest

from services import errors
from services.errors import InvalidArgument, ModelNotReady, PayloadTooLarge, QueueFull
from services.frontends.status import Dialect, grpc_code, http_status


@pytest.mark.parametrize(
    ("error", "dialect", "code", "status"),
    [
        (QueueFull("full"), Dialect.TFS, errors.UNAVAILABLE, 503),
        (QueueFull("full"), Dialect.OIP, errors.RESOURCE_EXHAUSTED, 429),
        (QueueFull("full"), Dialect.TYPED, errors.RESOURCE_EXHAUSTED, 429),
        (ModelNotReady("loading"), Dialect.TFS, errors.NOT_FOUND, 404),
        (ModelNotReady("loading"), Dialect.OIP, errors.UNAVAILABLE, 503),
        (ModelNotReady("loading"), Dialect.TYPED, errors.FAILED_PRECONDITION, 503),
        (PayloadTooLarge("large"), Dialect.OIP, errors.RESOURCE_EXHAUSTED, 413),
        (InvalidArgument("wrong"), Dialect.TFS, errors.INVALID_ARGUMENT, 400),
    ],
)
def test_each_dialect_says_it_in_its_own_codes(error, dialect, code, status):
    assert (grpc_code(error, dialect), http_status(error, dialect)) == (code, status)
