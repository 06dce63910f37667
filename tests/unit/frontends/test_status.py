import logging

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


def test_an_error_that_nobody_foresaw_goes_to_the_log_and_not_to_the_client(caplog):
    with caplog.at_level(logging.ERROR):
        error = to_cornet(ZeroDivisionError("a secret"), "tfs-rest", "predict")
    assert error.code == errors.INTERNAL
    assert "secret" not in str(error)
    assert "a secret" in caplog.text


def test_an_error_of_ours_stays_as_it_is():
    full = QueueFull("full")
    assert to_cornet(full, "tfs-rest", "predict") is full
