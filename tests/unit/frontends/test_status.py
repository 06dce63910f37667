import pytest

from services import errors
from services.errors import InvalidArgument, ModelNotReady, PayloadTooLarge, QueueFull
from services.frontends.status import Dialect, grpc_code, http_status, to_cornet


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


def test_an_error_that_nobody_foresaw_is_the_cause_of_one_that_tells_the_client_nothing():
    cause = ZeroDivisionError("a secret")
    error = to_cornet(cause)
    assert error.code == errors.INTERNAL
    assert "secret" not in str(error)
    assert error.__cause__ is cause


def test_an_error_of_ours_stays_as_it_is():
    full = QueueFull("full")
    assert to_cornet(full) is full
