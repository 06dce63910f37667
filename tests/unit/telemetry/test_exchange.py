"""A request's id and what is logged of its failure."""

import pytest

from services.errors import Internal, InvalidArgument
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics


def arrived(headers: object = ()) -> Exchange:
    return Exchange(Metrics(gpus=False), "tfs-grpc", "Predict", headers)


@pytest.mark.parametrize("headers", [(("x-request-id", "job-7/a"),), {b"x-request-id": b"job-7/a"}])
def test_a_client_s_own_id_is_taken_from_metadata_and_headers(headers: object):
    assert arrived(headers).request_id == "job-7/a"


@pytest.mark.parametrize("asked", ["", "a b", "a\nb", "x" * 129, "<script>", "é"])
def test_an_id_that_could_harm_a_log_or_a_header_is_replaced(asked: str):
    given = arrived((("x-request-id", asked),)).request_id
    assert given != asked
    assert given.isascii()


def test_each_request_without_an_id_gets_its_own_and_keeps_it():
    one, other = arrived(), arrived()
    assert one.request_id == one.request_id != other.request_id


def test_a_fault_is_logged_with_the_request_s_id_and_its_cause(caplog: pytest.LogCaptureFixture):
    error = Internal("The server failed.")
    error.__cause__ = ZeroDivisionError("why")
    exchange = arrived((("x-request-id", "abc"),))
    exchange.report(error)
    [record] = caplog.records
    assert record.cornet_fields["request_id"] == "abc"
    assert "why" in caplog.text


def test_a_client_s_mistake_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture):
    arrived().report(InvalidArgument("wrong"))
    assert not caplog.records
